"""Sums over ranks, by which a rank's partial loss is a part of the global one."""

from collections.abc import Callable

from torch import Tensor

# The sum of a tensor over all ranks, without gradient; every rank calls it, in the same order.
RankSum = Callable[[Tensor], Tensor]


def one_rank(t: Tensor) -> Tensor:
    """Return the tensor itself: the sum over one rank."""
    return t
