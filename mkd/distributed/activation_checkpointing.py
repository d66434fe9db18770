"""Activation checkpointing: blocks keep their inputs alone, and are computed again in the backward pass."""

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(network: nn.Module) -> int:
    """Checkpoint each block of a network in training mode; return how many there are.

    A block is an outermost element of an ``nn.Sequential`` or ``nn.ModuleList`` with convolutions or linear layers
    inside it: a residual block, a transformer's block, a module of an HRNet's stage. Losses, gradients and running
    statistics stay the same to the bit. The modules stay the same objects with the same state-dict names.

    Args:
        network: changed in place.

    Raises:
        ValueError: there are no blocks.

    Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
    """
    found = list(_blocks(network))
    if not found:
        raise ValueError(
            "model.checkpointing=true: this backbone is no sequence of blocks; leave it out, or take another backbone"
        )
    for block in found:
        block.__class__ = _checkpointed_class(type(block))
    return len(found)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    sequence = isinstance(module, (nn.Sequential, nn.ModuleList))
    for child in module.children():
        inner = [m for m in child.modules() if m is not child]
        if (
            sequence
            and not isinstance(child, (nn.Sequential, nn.ModuleList))
            and any(isinstance(m, (nn.Conv2d, nn.Linear)) for m in inner)
        ):
            yield child
        else:
            yield from _blocks(child)


class _Checkpointed(nn.Module):
    """Mixed into a block's class, before it."""

    def forward(self, *args: Any) -> Any:
        """Return what the block returns."""
        plain = super().forward
        if not (self.training and torch.is_grad_enabled()):
            return plain(*args)

        def compute(*given: Any) -> Any:
            # An HRNet's module writes into the list that it is given, and is to find the same list the second time.
            return plain(*(list(a) if isinstance(a, list) else a for a in given))

        return checkpoint(
            compute,
            *args,  # whose devices' random states are those of the second time too
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(), _StatisticsKept(self)),
        )


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


def _checkpointed_class(kind: type[nn.Module]) -> type[nn.Module]:
    """Return a block's class with `_Checkpointed` before it, the same one for all blocks of a class."""
    if issubclass(kind, _Checkpointed):
        return kind
    if kind not in _CLASSES:
        made = type(f"Checkpointed{kind.__name__}", (_Checkpointed, kind), {})
        _CLASSES[kind] = cast(type[nn.Module], made)
    return _CLASSES[kind]


class _StatisticsKept:
    """A context in which no BatchNorm of a block moves its running statistics: the first forward pass has done so.

    With a momentum of 0 they are written as they are. They must be there, as in the first pass, since autograd saves
    them; batches are counted elsewhere. It is entered again by each backward pass through the block, of which a loss
    has several where a gradient is only looked at.
    """

    def __init__(self, block: nn.Module) -> None:
        self._norms = [
            m for m in block.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats
        ]
        self._before: list[tuple[float | None, torch.Tensor | None]] = []

    def __enter__(self) -> None:
        self._before = [(norm.momentum, norm.num_batches_tracked) for norm in self._norms]
        for norm in self._norms:
            norm.momentum = 0.0
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked = torch.zeros_like(norm.num_batches_tracked)

    def __exit__(self, *_: object) -> None:
        for norm, (momentum, count) in zip(self._norms, self._before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
