"""mkd as a library: ``from mkd import load, predict``, on numpy arrays."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mkd.inference.windowed import probabilities
from mkd.loader.batch import scaled, to_unit
from mkd.metrics.temperature import at_temperature
from mkd.model_folder import ModelCard, load_model
from mkd.models.segmentation import SegmentationNetwork
from mkd.models.symmetry import symmetries


@dataclass(frozen=True)
class LoadedModel:
    """A trained network on its device, with the card of its folder: classes, palette, crop."""

    network: SegmentationNetwork
    card: ModelCard
    device: torch.device

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names, by id."""
        return self.card.classes


@dataclass(frozen=True)
class Prediction:
    """Class ids uint8 (H, W) and confidence float32 (H, W) in [0, 1], at the card's temperature, of an image."""

    classes: NDArray[np.uint8]
    confidence: NDArray[np.float32]


def load(folder: str | Path, device: str | None = None) -> LoadedModel:
    """Load a model folder, such as ``RUN/model``.

    Args:
        folder: with model.safetensors and model.yaml.
        device: None takes cuda where there is one, else cpu.

    Raises:
        ValueError: no model folder, or a damaged one.
    """
    network, card = load_model(folder)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return LoadedModel(network.to(place).eval(), card, place)


@torch.inference_mode()
def predict(model: LoadedModel, image: NDArray[Any], tta: str = "none") -> Prediction:
    """Predict the classes of one image, in windows of the size that the model was trained on.

    The whole image is in memory; for orthomosaics use launch/predict_map.py, which reads by windows.

    Args:
        model: of `load`.
        image: (H, W, bands) of the type that the model was trained on: in most cases uint8 (H, W, 3), red, green, blue;
            NaN where a pixel of float32 is missing.
        tta: "flips" or "d4" averages over four or eight views of each window, in as many times the time.

    Raises:
        ValueError: another type or shape, or a tta that is not known.
    """
    symmetries(tta)  # refused here, before anything is predicted
    scale = model.card.architecture.scale
    if image.ndim != 3 or (image.shape[2], str(image.dtype)) != scale.kind:
        raise ValueError(
            f"the image is {image.dtype} of shape {image.shape}: give {scale.dtype} of shape "
            f"(height, width, {scale.bands})"
        )
    pixels = torch.from_numpy(np.ascontiguousarray(image)).to(model.device)
    known = np.isfinite(image).all(axis=2)
    valid = None if known.all() else torch.from_numpy(known).to(model.device)[None]
    images = to_unit(scaled(pixels.permute(2, 0, 1)[None], valid, scale))
    found = probabilities(model.network, images, model.card.crop, tta)[0]
    confidence, ids = at_temperature(found, model.card.temperature, dim=0).amax(dim=0), found.argmax(dim=0)
    return Prediction(ids.to(torch.uint8).cpu().numpy(), confidence.cpu().numpy())
