"""What a forward pass asks of a device, operation by operation, and how long a device takes for it (roofline)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

BYTES = 2  # of a number in bf16


@dataclass(frozen=True)
class Rates:
    """What a device attains.

    Attributes:
        flops: of convolutions and matrix products, FLOP/s.
        bytes_per_s: of memory traffic.
        launch_s: least time of an operation, seconds.
    """

    flops: float
    bytes_per_s: float
    launch_s: float


@dataclass(frozen=True)
class Work:
    """One forward pass.

    Attributes:
        tiles: in it.
        operations: (FLOP, bytes read and written) of each.
    """

    tiles: int
    operations: tuple[tuple[float, float], ...]

    @property
    def flop(self) -> float:
        """Of the whole pass."""
        return math.fsum(flop for flop, _ in self.operations)

    def seconds(self, rates: Rates) -> float:
        r"""Return the time of the pass: each operation is bound by arithmetic, by memory or by its launch.

        .. math:: t = \sum_o \max(f_o / F,\; b_o / B,\; t_0)

        Source: Williams, Waterman and Patterson 2009, Roofline.
        """
        return math.fsum(
            max(flop / rates.flops, size / rates.bytes_per_s, rates.launch_s)
            for flop, size in self.operations
        )


def forward_work(model: nn.Module, tiles: int, size: int) -> Work:
    """Count a forward pass without computing it.

    Each operation reads its inputs and writes its output once, in bf16; views cost nothing; nothing is fused.

    Args:
        model: on the meta device, takes float32 (tiles,3,size,size).
        tiles: >= 1.
        size: height and width, pixels.
    """
    counter, images = _Counter(), torch.empty(tiles, 3, size, size, device="meta")
    training = model.training
    model.eval()
    with torch.no_grad(), counter:
        model(images)
    model.train(training)
    return Work(tiles, tuple(counter.operations))


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each operation that does something."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[tuple[float, float]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and note it."""
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            count = flop_registry.get(func._overloadpacket)
            flop = count(*args, **(kwargs or {}), out_val=result) if count is not None else 0
            tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
            self.operations.append((float(flop), float(BYTES * sum(t.numel() for t in tensors))))
        return result
