"""Who reads what: pure integers, no files, no processes."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Plan:
    """The order in which a data set's samples are read.

    Position p of the endless stream is sample ``permutation(seed, p // count)[p % count]``. Step k of a global
    batch B takes positions kB .. kB + B - 1, and rank r of R the r-th of R equal parts of them. So each sample
    comes exactly once an epoch, the global order depends on seed and epoch alone, and any step can be entered
    by arithmetic, with another number of ranks too.

    Attributes:
        count: samples in the data set, >= 1.
        batch: global batch, a multiple of ``ranks``.
        seed: of the order.
        rank: of this process, 0 <= rank < ranks.
        ranks: processes that share the batch.
    """

    count: int
    batch: int
    seed: int
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        """Refuse an impossible split."""
        if self.count < 1:
            raise ValueError("the data set holds 0 tiles; at least 1 is needed")
        if self.batch % self.ranks:
            raise ValueError(
                f"data.batch={self.batch} is not a multiple of the {self.ranks} ranks; "
                f"use {self.ranks * max(1, round(self.batch / self.ranks))} or another number of ranks"
            )

    def step(self, step: int) -> list[tuple[int, int]]:
        """Return this rank's (epoch, sample) pairs of one step."""
        part = self.batch // self.ranks
        first = step * self.batch + self.rank * part
        return [self.sample(p) for p in range(first, first + part)]

    def sample(self, position: int) -> tuple[int, int]:
        """Return the (epoch, sample) at a position of the endless stream."""
        epoch, offset = divmod(position, self.count)
        return epoch, int(_permutation(self.count, self.seed, epoch)[offset])

    def steps(self, start: int, stop: int) -> Iterator[list[tuple[int, int]]]:
        """Yield this rank's batches of steps ``start`` .. ``stop - 1``."""
        for step in range(start, stop):
            yield self.step(step)


@lru_cache(maxsize=8)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)
