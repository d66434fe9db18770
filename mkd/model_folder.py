"""A model folder: `model.safetensors` + `model.yaml`; no pickle."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from mkd.atomic import write_text, written_aside
from mkd.documents import MAX_YAML, mapping, parse_yaml, sequence, shown, text, whole
from mkd.labels import Colour
from mkd.models.architecture import Architecture
from mkd.models.build import build
from mkd.models.segmentation import SegmentationNetwork
from mkd.pixel_scale import MAX_BANDS, PixelScale


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
        temperature: T of the probabilities that people see, see `mkd.metrics.temperature`; 1: none was fitted.
    """

    architecture: Architecture
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    provenance: dict[str, Any] = field(default_factory=dict)
    crop: int | None = None
    temperature: float = 1.0


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
    _write_card(folder, card)


def set_temperature(folder: str | Path, temperature: float, about: dict[str, Any]) -> None:
    """Write a temperature into a model's card; its weights stay as they are.

    Args:
        folder: of the model.
        temperature: T > 0.
        about: what it was fitted on, for the provenance.

    Raises:
        ValueError: no model card.
        OSError: a folder that cannot be written.
    """
    card = read_card(folder)
    provenance = {**card.provenance, "temperature": about}
    _write_card(Path(folder), replace(card, temperature=temperature, provenance=provenance))


def _write_card(folder: Path, card: ModelCard) -> None:
    content = {
        "architecture": _plain(card.architecture.to_dict()),
        "classes": list(card.classes),
        "palette": [list(c) for c in card.palette],
        "crop": card.crop,
        **({} if card.temperature == 1.0 else {"temperature": card.temperature}),
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
        with open(path, "rb") as file:
            return _card(mapping(parse_yaml(file.read(MAX_YAML + 1)), "it"))
    except (OSError, KeyError, TypeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise ValueError(
            f"{path}: not a model card ({reason}); give a folder that a training run wrote"
        ) from None


def _card(content: dict[str, Any]) -> ModelCard:
    """Make a card of its YAML.

    Raises:
        KeyError: a key that is missing.
        TypeError: a field that an architecture does not have.
        ValueError: a value of a wrong kind, or out of its range.
    """
    plan = mapping(content["architecture"], "architecture")
    fields = {name: _field(name, value) for name, value in plan.items()}
    classes = tuple(text(name, "a class") for name in sequence(content["classes"], "classes"))
    colours = [sequence(colour, "a colour", 3) for colour in sequence(content["palette"], "palette")]
    palette = [tuple(whole(part, "a colour", 0, 255) for part in colour) for colour in colours]
    if not 2 <= len(classes) <= 254 or len(palette) != len(classes):
        raise ValueError(
            f"{len(classes)} classes, {len(palette)} colours; 2 to 254 classes with a colour each are needed"
        )
    crop = content.get("crop")
    if crop is not None:
        whole(crop, "crop", 1, 2**20)
    provenance = mapping(content.get("provenance") or {}, "provenance")
    colours_of = tuple((r, g, b) for r, g, b in palette)
    return ModelCard(Architecture(**fields), classes, colours_of, provenance, crop, _temperature(content))


def _temperature(content: dict[str, Any]) -> float:
    found = content.get("temperature", 1.0)
    if type(found) not in (int, float) or not 1e-3 <= found <= 1e3:
        raise ValueError(f"temperature is {shown(found)}, a number from 0.001 to 1000 is needed")
    return float(found)


def _field(name: str, value: Any) -> Any:
    """Return a field of an architecture; lists become tuples, and a number is one where numbers are needed."""
    if name in ("backbone", "decoder", "psa"):
        return text(value, name)
    if name == "scale":
        return _scale(mapping(value, name))
    if name == "separable":
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {shown(value)}, true or false is needed")
        return value
    if name in ("dropout", "mean", "std"):
        return _numbers(value, name)
    if name == "aspp_rates":
        return None if value is None else tuple(whole(rate, name) for rate in sequence(value, name))
    return whole(value, name)


def _numbers(value: Any, name: str) -> tuple[float, ...]:
    parts = sequence(value, name)
    if not all(type(part) in (int, float) for part in parts):
        raise ValueError(f"{name} is {shown(value)}, a list of numbers is needed")
    return tuple(parts)


def _scale(content: dict[str, Any]) -> PixelScale:
    bands, dtype = whole(content["bands"], "scale.bands", 1, MAX_BANDS), text(content["dtype"], "scale.dtype")
    given = {key: content.get(key) for key in ("low", "high")}
    low, high = (None if v is None else _numbers(v, f"scale.{key}") for key, v in given.items())
    return PixelScale(bands, dtype, low, high)


def check_model_folder(folder: str | Path) -> None:
    """Check that a folder holds a card and weights that can be read, without building the network.

    Raises:
        ValueError: the folder is incomplete or damaged.
    """
    read_card(folder)
    _shapes(Path(folder) / "model.safetensors")


def load_model(folder: str | Path) -> tuple[SegmentationNetwork, ModelCard]:
    """Build the network of a model folder with its weights, in eval mode on the CPU.

    Channels-last, as it was trained: another layout is slower, on a CPU too, and rounds otherwise.

    Raises:
        ValueError: the folder is incomplete, damaged, its weights are of another architecture, or not finite.
    """
    card = read_card(folder)
    path = Path(folder) / "model.safetensors"
    _check_fit(card, path)
    model = build(card.architecture, len(card.classes), pretrained=None)
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); write the model folder again") from None
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{path}: not the weights of the architecture in model.yaml ({reason})") from None
    for name, tensor in model.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(
                f"{path}: the tensor {name} holds NaN or infinity, and so would every output; give another model "
                "folder, or train again"
            )
    model.to(memory_format=torch.channels_last)
    return model.eval(), card


def _check_fit(card: ModelCard, path: Path) -> None:
    """Compare the shapes of the weights with those of the network before it takes memory: a card is not believed."""
    found = _shapes(path)
    with torch.device("meta"):
        wanted = build(card.architecture, len(card.classes), pretrained=None).state_dict()
    for name in [*wanted, *found]:
        here = tuple(wanted[name].shape) if name in wanted else None
        if (there := found.get(name)) != here:
            raise ValueError(
                f"{path}: not the weights of the architecture in model.yaml ({name} is {there or 'missing'} there, "
                f"{here or 'unknown'} in the network); give the model.yaml that was written with them"
            )


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a weights file, from its header."""
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); write the model folder again") from None


def weights_digest(folder: str | Path) -> str:
    """Return the SHA-256 (hex) of a model folder's weights file."""
    digest = hashlib.sha256()
    with open(Path(folder) / "model.safetensors", "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Turn tuples into lists, so that YAML stays plain."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
