"""Model folder -> ONNX with softmax inside, and the metadata that other programs read (onnx is known here only)."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from mkd.atomic import written_aside

OPSET, IR_VERSION = 17, 8  # what onnxruntime of QGIS plugins reads


@dataclass(frozen=True)
class ExportOptions:
    """How a network is exported.

    Attributes:
        tile: side of its input, pixels; a network is exported for one size.
        bands: of its input.
        uint8: input is uint8, 0..255, instead of float32 in [0, 1].
        overlap: of neighbouring tiles, percent of the side, for programs that cut tiles themselves.
        resolution: ground size of a pixel, centimetres; None: unknown.
        low: value of each band that becomes 0 in float32 input; None: 0.
        high: value of each band that becomes 1; None: 255.
        temperature: T of the probabilities, softmax(logits / T).
    """

    tile: int
    bands: int
    uint8: bool = False
    overlap: int = 25
    resolution: float | None = None
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    temperature: float = 1.0

    def ranges(self) -> list[tuple[float, float]]:
        """Return low and high of each band."""
        low, high = self.low or (0.0,) * self.bands, self.high or (255.0,) * self.bands
        return list(zip(low, high, strict=True))


class _Probabilities(nn.Module):
    """A network with its scaling before and softmax behind: (B, bands, T, T) to (B, C, T, T) in [0, 1]."""

    def __init__(self, network: nn.Module, scale: bool, temperature: float) -> None:
        super().__init__()
        self.network, self.scale, self.temperature = network, scale, temperature

    def forward(self, images: Tensor) -> Tensor:
        images = images.float() / 255 if self.scale else images
        logits: Tensor = self.network(images)
        logits = logits.float()
        return (logits if self.temperature == 1.0 else logits / self.temperature).softmax(dim=1)


def export_onnx(
    network: nn.Module, names: Sequence[str], path: str | Path, options: ExportOptions
) -> dict[str, str]:
    """Write a network as ONNX: opset 17, dynamic batch, static tile.

    Input ``image`` is (B, bands, T, T), output ``probabilities`` is float32 (B, C, T, T). The file carries the metadata
    that the QGIS plugin Deepness reads, each value as JSON.

    Args:
        network: images in [0, 1] to logits.
        names: class names, by id.
        path: it appears once it is whole.
        options: see `ExportOptions`.

    Returns:
        The metadata.
    """
    shape = (2, options.bands, options.tile, options.tile)  # a batch of 1 would be taken for a constant
    example = torch.zeros(shape, dtype=torch.uint8) if options.uint8 else torch.rand(shape)
    model = _Probabilities(network.cpu(), options.uint8, options.temperature).eval()
    told = deepness_metadata(names, options)
    with written_aside(path) as aside:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the tracer warns of sizes that are constant here by intention
            torch.onnx.export(
                model,
                (example,),
                aside,
                dynamo=False,
                opset_version=OPSET,
                input_names=["image"],
                output_names=["probabilities"],
                dynamic_axes={"image": {0: "batch"}, "probabilities": {0: "batch"}},
            )
        made = onnx.load(aside)
        made.ir_version = IR_VERSION
        onnx.helper.set_model_props(made, told)
        onnx.checker.check_model(made, full_check=True)
        aside.write_bytes(made.SerializeToString())
    return told


def deepness_metadata(names: Sequence[str], options: ExportOptions) -> dict[str, str]:
    """Return the metadata of a segmentation model as Deepness reads it: keys to JSON texts.

    Deepness divides images by 255 first. Mean 0 and spread 1 say that they then go in as they are: the network
    normalises itself. Other ranges than 0 to 255 become 0 to 1 by mean and spread.

    Source: qgis-plugin-deepness, "Model metadata" of its documentation.
    """
    told: dict[str, object] = {
        "model_type": "Segmentor",
        "class_names": {str(n): name for n, name in enumerate(names)},
        "tiles_size": options.tile,
        "tile_size": options.tile,
        "tiles_overlap": options.overlap,
        "seg_thresh": 0.0,  # each pixel gets its most probable class
        "standardization_mean": [low / 255 for low, _ in options.ranges()],
        "standardization_std": [(high - low) / 255 for low, high in options.ranges()],
    }
    if options.resolution is not None:
        told["resolution"] = options.resolution
    return {key: json.dumps(value, ensure_ascii=False) for key, value in told.items()}
