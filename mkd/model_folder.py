"""A model folder: `model.safetensors` + `model.yaml`; no pickle."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mkd.atomic import write_text, written_aside
from mkd.labels import Colour
from mkd.models.architecture import Architecture
from mkd.models.build import build
from mkd.models.segmentation import SegmentationNetwork


@dataclass(frozen=True)
class ModelCard:
    """Description of the weights of a model folder.

    Attributes:
        architecture: how to build the network, normalisation included.
        classes: class names; their number is C.
        palette: one (r,g,b) a class.
        provenance: where the weights came from; free.
        crop: side of the crops that it was trained on, pixels: larger images are predicted in windows of it. None:
            unknown, of a folder that is older than this field.
    """

    architecture: Architecture
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    provenance: dict[str, Any] = field(default_factory=dict)
    crop: int | None = None


def save_model(folder: str | Path, state: dict[str, Tensor], card: ModelCard) -> None:
    """Write a model folder; `model.yaml` comes last and makes it whole.

    Args:
        folder: made when it is not there.
        state: the network's state dict.
        card: what it is.
    """
    folder = Path(folder)
    tensors = {name: t.detach().cpu().contiguous() for name, t in state.items()}
    with written_aside(folder / "model.safetensors") as aside:
        aside.write_bytes(save(tensors))
    content = {
        "architecture": _plain(card.architecture.to_dict()),
        "classes": list(card.classes),
        "palette": [list(c) for c in card.palette],
        "crop": card.crop,
        "provenance": _plain(card.provenance),
    }
    write_text(folder / "model.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def read_card(folder: str | Path) -> ModelCard:
    """Read `model.yaml`.

    Raises:
        ValueError: it is missing or not a model card.
    """
    path = Path(folder) / "model.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        fields = content["architecture"].items()
        architecture: dict[str, Any] = {k: _tuples(v) for k, v in fields}
        palette = tuple((int(r), int(g), int(b)) for r, g, b in content["palette"])
        if len(palette) != len(content["classes"]):
            raise ValueError(f"{len(content['classes'])} classes, {len(palette)} colours")
        crop = content.get("crop")
        if crop is not None and (not isinstance(crop, int) or crop < 1):
            raise ValueError(f"crop {crop!r}, a number of pixels or null is allowed")
        card = ModelCard(
            Architecture(**architecture),
            tuple(content["classes"]),
            palette,
            content.get("provenance", {}),
            crop,
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: not a model card ({reason}); give a folder that a training run wrote"
        ) from None
    return card


def load_model(folder: str | Path) -> tuple[SegmentationNetwork, ModelCard]:
    """Build the network of a model folder with its weights, in eval mode on the CPU.

    Raises:
        ValueError: the folder is incomplete, damaged, or its weights are of another architecture.
    """
    card = read_card(folder)
    path = Path(folder) / "model.safetensors"
    model = build(card.architecture, len(card.classes), pretrained=None)
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); write the model folder again") from None
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{path}: not the weights of the architecture in model.yaml ({reason})") from None
    return model.eval(), card


def weights_digest(folder: str | Path) -> str:
    """Return the SHA-256 (hex) of a model folder's weights file."""
    digest = hashlib.sha256()
    with open(Path(folder) / "model.safetensors", "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _tuples(value: Any) -> Any:
    """Turn lists into tuples, also those in an object."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    """Turn tuples into lists, so that YAML stays plain."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
