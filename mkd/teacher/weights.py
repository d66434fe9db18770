"""Published EMA weights: one safetensors file with its session, version and updates inside."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from mkd.atomic import written_aside
from mkd.teacher.protocol import ProtocolError, WeightsVersion, read_weights_version

Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]


def layout(model: nn.Module) -> Layout:
    """Return name, shape and dtype of each tensor of a model's published weights: floats are float32."""
    return {
        name: (tuple(t.shape), torch.float32 if t.is_floating_point() else t.dtype)
        for name, t in model.state_dict().items()
    }


def most_bytes(wanted: Layout) -> int:
    """Return the largest file of such weights: their bytes and room for the names."""
    content = sum(torch.Size(shape).numel() * dtype.itemsize for shape, dtype in wanted.values())
    return content + 4096 + sum(len(name) + 256 for name in wanted)


def to_bytes(state: dict[str, Tensor], header: WeightsVersion) -> bytes:
    """Return weights in the CPU's memory as a safetensors file."""
    about = {"session": header.session, "version": str(header.version), "updates": str(header.updates)}
    return save({name: t.detach().contiguous() for name, t in state.items()}, about)


def from_bytes(blob: bytes, wanted: Layout) -> tuple[dict[str, Tensor], WeightsVersion]:
    """Return the weights in a safetensors file and whose they are.

    Raises:
        ProtocolError: it is damaged, or a tensor is missing, too much, or of another shape or dtype.
    """
    try:
        about = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])["__metadata__"]
        header = read_weights_version(
            {"session": about["session"], **{k: int(about[k]) for k in ("version", "updates")}}
        )
        state = load(blob)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProtocolError(f"weights that are no safetensors file with a header ({error})") from None
    found = {name: (tuple(t.shape), t.dtype) for name, t in state.items()}
    if found != wanted:
        names = sorted(n for n in {*found, *wanted} if found.get(n) != wanted.get(n))
        name = names[0]
        raise ProtocolError(
            f"weights of another network: {len(names)} tensors differ, first {name}: "
            f"{found.get(name, 'not there')} at the student, {wanted.get(name, 'not there')} here"
        )
    return state, header


def digest(blob: bytes | bytearray) -> str:
    """Return the SHA-256 of a weights file, hex."""
    return hashlib.sha256(blob).hexdigest()


def write_file(path: Path, blob: bytes) -> None:
    """Replace the weights that a late teacher loads, whole or not at all."""
    with written_aside(path) as aside:
        aside.write_bytes(blob)


def read_file(path: Path, wanted: Layout) -> tuple[dict[str, Tensor], WeightsVersion]:
    """Return the weights of a file.

    Raises:
        ValueError: it is damaged or of another network.
    """
    try:
        return from_bytes(path.read_bytes(), wanted)
    except ProtocolError as error:
        raise ValueError(f"{path}: {error}; delete it, the student publishes again") from None
