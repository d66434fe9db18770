"""Decoding processes and the order of what they decode: batches come as asked for, a few are made ahead; no torch."""

from __future__ import annotations

import selectors
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mkd.dataset.tile_reader import BadTile, DataSet
from mkd.loader.workers.messages import Order, Prefetch, Setup
from mkd.loader.workers.scheduler import AT_ONCE, WorkStealingScheduler
from mkd.loader.workers.shared_buffers import BufferLayout, SharedBufferPool
from mkd.loader.workers.worker_handle import WorkerHandle

DEPTH = 6  # batches that are decoded ahead; more where they have fewer tiles than there are processes
GROUP = (
    2  # batches that are ordered, and answered, by one message: so a part waits behind those that are begun
)

Pair = tuple[int, int]  # (epoch, sample)
Block = Sequence[Sequence[Pair]]  # batches whose tiles are read ahead together


class DecodedBatch(NamedTuple):
    """A decoded batch: its pairs, the flat buffer, (height, width) of each slot, and what was replaced by slot."""

    pairs: Sequence[Pair]
    buffer: NDArray[np.uint8]
    sizes: list[Pair]
    lost: dict[int, BadTile]


@dataclass
class _Pending:
    """A batch that processes are working on."""

    pairs: Sequence[Pair]
    buffer: int
    slots: dict[int, range]  # share -> its slots, until it is answered
    sizes: list[Pair]
    lost: dict[int, BadTile] = field(default_factory=dict)


class DecodingPool:
    """Processes that decode the batches of one stream into shared memory.

    A batch has as many shares as there are processes, slot s in share s mod workers, so that neighbours in a shard are
    read by one process; where there are more processes than slots, shares take turns by batch. A process does its own
    shares. Where it falls behind, those of a local data set are done by others; those of a remote one never are,
    because their process reads them ahead.

    Args:
        data: the data set.
        layout: of a batch buffer.
        workers: processes, >= 1.
    """

    def __init__(self, data: DataSet, layout: BufferLayout, workers: int) -> None:
        self._layout, self._remote = layout, "://" in data.folder
        self._depth = max(DEPTH, -(-(AT_ONCE + 1) * workers // layout.slots))
        self._ring = SharedBufferPool(layout)
        self._workers: list[WorkerHandle] = []
        self._selector = selectors.DefaultSelector()
        self._pending: dict[int, _Pending] = {}
        self._ordered = self._announced = 0
        self._scheduler: WorkStealingScheduler[list[Order]] = WorkStealingScheduler(
            workers, self._tell, shared=not self._remote
        )
        try:
            for number in range(workers):
                worker = WorkerHandle(Setup(data, layout, self._ring.file))
                self._workers.append(worker)
                self._selector.register(worker.line, selectors.EVENT_READ, number)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> DecodingPool:
        """Return the pool."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the processes; what was handed out stays valid."""
        for worker in self._workers:
            worker.line.close()
        for worker in self._workers:
            worker.end()
        self._selector.close()
        self._ring.close()

    def batches(self, blocks: Iterable[Block]) -> Iterator[DecodedBatch]:
        """Yield decoded batches in the given order.

        Raises:
            ValueError: a process died, or what it says stops the run.
        """
        queue: deque[int] = deque()
        batches = read_ahead(blocks, self._prefetch if self._remote else None)
        while True:
            while len(queue) <= self._depth - GROUP and (group := list(islice(batches, GROUP))):
                queue += self._order(group)
            if not queue:
                return
            number = queue.popleft()
            while self._pending[number].slots:
                self._hear()
            yield self._finished(self._pending.pop(number))

    def _finished(self, batch: _Pending) -> DecodedBatch:
        return DecodedBatch(batch.pairs, self._ring.lend(batch.buffer), batch.sizes, batch.lost)

    def _prefetch(self, block: Block) -> None:
        """Tell each process which tiles of the next block it will be asked for."""
        samples: list[list[int]] = [[] for _ in self._workers]
        for pairs in block:
            for who, its in self._shares(self._announced, len(pairs)).items():
                samples[who] += [pairs[slot][1] for slot in its]
            self._announced += 1
        for worker, wanted in zip(self._workers, samples, strict=True):
            if wanted:
                worker.tell(Prefetch(wanted))

    def _order(self, group: Sequence[Sequence[Pair]]) -> range:
        """Have some batches decoded; return their numbers."""
        orders: list[list[Order]] = [[] for _ in self._workers]
        numbers = range(self._ordered, self._ordered + len(group))
        for number, pairs in zip(numbers, group, strict=True):
            buffer, shares = self._ring.take(), self._shares(number, len(pairs))
            self._pending[number] = _Pending(pairs, buffer, shares, [(0, 0)] * len(pairs))
            for who, its in shares.items():
                orders[who].append(Order(number, who, buffer, its, [pairs[slot][1] for slot in its]))
        self._ordered = numbers.stop
        for who, its_orders in enumerate(orders):
            if its_orders:
                self._scheduler.add(who, its_orders)
        self._scheduler.share()
        return numbers

    def _tell(self, who: int, orders: list[Order]) -> None:
        self._workers[who].tell(orders)

    def _shares(self, number: int, tiles: int) -> dict[int, range]:
        """Return the slots of each process's share of a batch; a share without any is left out."""
        workers, slots = len(self._workers), self._layout.slots
        first = -number * slots if slots < workers else 0
        shares = {who: range((who + first) % workers, tiles, workers) for who in range(workers)}
        return {who: its for who, its in shares.items() if its}

    def _hear(self) -> None:
        """Wait for answers and take them."""
        for key, _ in self._selector.select():
            for done in self._workers[key.data].hear():
                batch = self._pending[done.number]
                for slot, size in zip(batch.slots.pop(done.share), done.sizes, strict=True):
                    batch.sizes[slot] = size
                batch.lost |= done.lost
            self._scheduler.done(key.data)
        self._scheduler.share()


def read_ahead(blocks: Iterable[Block], announce: Callable[[Block], None] | None) -> Iterator[Sequence[Pair]]:
    """Yield the batches of blocks, and announce a block when the one before it begins."""
    announce = announce or (lambda block: None)
    rest = iter(blocks)
    block = next(rest, None)
    if block is not None:
        announce(block)
    while block is not None:
        following = next(rest, None)
        if following is not None:
            announce(following)
        yield from block
        block = following
