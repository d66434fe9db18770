"""Weights as they were at one moment, side by side in one buffer that is copied to the CPU at once."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

_ALIGNMENT = 16  # bytes; a multiple of every dtype's size


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in the buffer, and how."""

    offset: int  # bytes
    shape: torch.Size
    strides: tuple[int, ...]  # the memory format of the network, which a copy on its device keeps
    dtype: torch.dtype


@dataclass(frozen=True)
class WeightsSnapshot:
    """A copy of a state dict that nobody changes any more.

    A network has some thousand tensors. One by one their copies to the CPU would each wait for the device, so they are
    put side by side on their device, by one call for each dtype, and cross as one.

    Attributes:
        buffer: uint8 (bytes,), on the device of the weights.
        places: of each tensor by name.
        ready: of a GPU: the event after which the buffer is filled; None on a CPU.
    """

    buffer: Tensor
    places: dict[str, _Place]
    ready: Any = None  # torch.cuda.Event, which torch does not annotate

    @classmethod
    @torch.no_grad()
    def of(cls, state: Mapping[str, Tensor]) -> "WeightsSnapshot":
        """Copy a state dict whose tensors are all on one device; does not wait for the device."""
        places, end = dict[str, _Place](), 0
        for name, t in state.items():
            dense = torch.empty_like(t, device="meta").stride()
            places[name] = _Place(end, t.shape, dense, t.dtype)
            end += -(-t.numel() * t.dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
        device = next(iter(state.values())).device
        made = cls(torch.empty(end, dtype=torch.uint8, device=device), places)
        views = made.tensors()
        for dtype in {place.dtype for place in places.values()}:
            names = [name for name, place in places.items() if place.dtype == dtype]
            torch._foreach_copy_([views[n] for n in names], [state[n] for n in names])
        return replace(
            made, ready=torch.cuda.current_stream(device).record_event() if _has_streams(device) else None
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, which are views of the buffer."""
        found = {}
        for name, place in self.places.items():
            size = place.shape.numel() * place.dtype.itemsize
            flat = self.buffer[place.offset : place.offset + size].view(place.dtype)
            found[name] = flat.as_strided(place.shape, place.strides, flat.storage_offset())
        return found

    def on_cpu(self) -> "WeightsSnapshot":
        """Return the same weights in the CPU's memory, by one copy; waits for it, and no stream of others does."""
        device = self.buffer.device
        host = torch.empty_like(self.buffer, device="cpu", pin_memory=_has_streams(device))
        with _own_stream(device, self.ready):
            host.copy_(self.buffer, non_blocking=True)
        return replace(self, buffer=host, ready=None)


def _has_streams(device: torch.device) -> bool:
    return device.type == "cuda"


@contextlib.contextmanager
def _own_stream(device: torch.device, ready: Any) -> Iterator[None]:
    """Run a block on a stream of its own that begins after an event, and wait for it; a CPU has no streams."""
    if not _has_streams(device):
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_event(ready)
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()  # this thread waits, which is not the one that trains
