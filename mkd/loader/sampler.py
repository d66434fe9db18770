"""The order of samples, by arithmetic on integers: no files, no processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

MAX_WHOLE_EPOCH = 4096  # tiles up to which an epoch is one permutation of all of them
WINDOW = 64  # tiles of a lane that are shuffled together, and steps of the longest block
KEPT_EPOCHS = 2  # epochs whose tables are cached: a batch may end one epoch and begin the next

Ints = NDArray[np.int64]
T = TypeVar("T")


class _Epoch(NamedTuple):
    """The shards in an epoch's order, the sums of their counts, and the position where the first lane begins."""

    shards: Ints
    ends: Ints
    first: int


class Sampler:
    """The order in which the ranks read a data set's samples.

    The stream of positions p = 0, 1, .. is endless; with N samples, epoch e is positions eN .. (e+1)N - 1. Step k of a
    global batch B takes positions kB .. kB + B - 1, rank r of R the r-th of R equal parts of them. So each sample comes
    exactly once an epoch, an epoch's last batch is filled up by the next epoch, all ranks have equally many batches,
    the order does not depend on their number, and any step is entered by arithmetic, with other ranks too.

    Inside an epoch, up to `MAX_WHOLE_EPOCH` samples are permuted as one. More: the shards are permuted, joined to a
    circle and cut, from a random place on, into B lanes of N // B samples or one more; slot s of each batch reads
    lane (s - eN) mod B from end to end, shuffled within windows that change for all lanes at once, every `WINDOW`
    steps. So a slot reads neighbours of one shard for `WINDOW` steps, and `WINDOW` * B samples over all ranks are
    shuffled together.

    Args:
        counts: samples of each shard, >= 0, in the order of the index.
        batch: global batch, a multiple of ``ranks``.
        seed: of the order, >= 0.
        rank: number of this process, 0 <= rank < ranks.
        ranks: processes that share the batch.

    Raises:
        ValueError: no samples, or a batch that the ranks cannot share equally.
    """

    def __init__(
        self, counts: Sequence[int] | Ints, batch: int, seed: int, rank: int = 0, ranks: int = 1
    ) -> None:
        assert batch >= 1, batch
        assert 0 <= rank < ranks, (rank, ranks)
        self._counts = np.asarray(counts, np.int64)
        self._ends = np.cumsum(self._counts)
        self.count = int(self._ends[-1]) if len(self._ends) else 0
        self.batch, self.seed, self.rank, self.ranks = batch, seed, rank, ranks
        if self.count < 1:
            raise ValueError("the data set holds 0 tiles; at least 1 is needed")
        if batch % ranks:
            raise ValueError(
                f"data.batch={batch} is not a multiple of the {ranks} ranks; "
                f"use {ranks * max(1, round(batch / ranks))} or another number of ranks"
            )
        self.part = batch // ranks  # slots of this rank
        self._epochs: dict[tuple[int, ...], _Epoch] = {}
        self._orders: dict[tuple[int, ...], Ints] = {}
        self._windows: dict[tuple[int, ...], Ints] = {}

    def step(self, step: int) -> list[tuple[int, int]]:
        """Return this rank's (epoch, sample) pairs of one step, in the order of its slots."""
        first = step * self.batch + self.rank * self.part
        sample_at = self._permuted if self.count <= MAX_WHOLE_EPOCH else self._in_lane
        return [sample_at(*divmod(position, self.count)) for position in range(first, first + self.part)]

    def steps(self, start: int, stop: int) -> Iterator[list[tuple[int, int]]]:
        """Yield this rank's batches of steps ``start`` .. ``stop - 1``."""
        for step in range(start, stop):
            yield self.step(step)

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of steps (first, end) that ``start`` .. ``stop - 1`` falls into, for prefetching.

        Inside a block each slot stays in one window: no sample comes twice, and a block has at most `WINDOW` steps.
        """
        while start < stop:
            end = min(self._block_end(start), stop)
            yield start, end
            start = end

    def locate(self, sample: int) -> tuple[int, int]:
        """Return the shard that holds a sample, and its row there."""
        assert 0 <= sample < self.count, sample
        shard = int(np.searchsorted(self._ends, sample, side="right"))
        return shard, sample - int(self._ends[shard] - self._counts[shard])

    def _block_end(self, step: int) -> int:
        """Return the step at which the block of a step ends: where windows change, or before two epochs meet."""
        first = step * self.batch + self.rank * self.part
        last = first + self.part - 1
        epoch = first // self.count
        if last // self.count > epoch:
            return step + 1
        epoch_start = epoch * self.count // self.batch  # step
        next_window = epoch_start + ((step - epoch_start) // WINDOW + 1) * WINDOW
        remaining = (epoch + 1) * self.count - last  # positions of the epoch from this rank's last one on
        return min(next_window, step - (-remaining // self.batch))

    def _permuted(self, epoch: int, place: int) -> tuple[int, int]:
        return epoch, int(_cached(self._orders, (epoch,), KEPT_EPOCHS, self._permutation)[place])

    def _permutation(self, epoch: int) -> Ints:
        return np.random.default_rng([self.seed, epoch]).permutation(self.count)

    def _in_lane(self, epoch: int, place: int) -> tuple[int, int]:
        row, lane = divmod(place, self.batch)
        shift = self._lane_shift(epoch, lane)
        window, row = divmod(row + shift, WINDOW)
        order = _cached(self._windows, (epoch, lane, window), 2 * self.part, self._window)
        return epoch, int(order[row - shift if window == 0 else row])

    def _lane_shift(self, epoch: int, lane: int) -> int:
        """Return 1 for a lane whose slot still reads the epoch before in the step in which this one begins."""
        return int(lane >= self.batch - epoch * self.count % self.batch)

    def _window(self, epoch: int, lane: int, window: int) -> Ints:
        """Return the samples of one window of a lane, in the order of reading."""
        length, longer = divmod(self.count, self.batch)  # of a lane; lanes that have one sample more
        shift = self._lane_shift(epoch, lane)
        start = max(0, window * WINDOW - shift)
        stop = min((window + 1) * WINDOW - shift, length + (lane < longer))
        # The last word keeps this seed apart from an epoch's own: numpy ignores zeros at the end of a seed.
        order = np.random.default_rng([self.seed, epoch, lane, window, 1]).permutation(stop - start)
        table = _cached(self._epochs, (epoch,), KEPT_EPOCHS, self._epoch)
        places = (table.first + lane * length + min(lane, longer) + start + order) % self.count
        shard_places = np.searchsorted(table.ends, places, side="right")
        return self._ends[table.shards[shard_places]] - table.ends[shard_places] + places

    def _epoch(self, epoch: int) -> _Epoch:
        draws = np.random.default_rng([self.seed, epoch])
        shards = draws.permutation(len(self._counts))
        return _Epoch(shards, np.cumsum(self._counts[shards]), int(draws.integers(self.count)))


def _cached(store: dict[tuple[int, ...], T], key: tuple[int, ...], size: int, make: Callable[..., T]) -> T:
    """Return what ``make(*key)`` gives, keeping the last ``size`` results."""
    if key not in store:
        while len(store) >= size:
            del store[next(iter(store))]
        store[key] = make(*key)
    return store[key]
