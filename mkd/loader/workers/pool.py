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

from mkd.dataset.tile_decoder import BadTile, DatasetSpec
from mkd.loader.workers.messages import DecodeRequest, PrefetchRequest, WorkerSetup
from mkd.loader.workers.scheduler import MAX_IN_FLIGHT, WorkStealingScheduler
from mkd.loader.workers.shared_buffers import BufferLayout, SharedBufferPool
from mkd.loader.workers.worker_handle import WorkerHandle

QUEUED_BATCHES = (
    6  # batches that are decoded ahead; more where they have fewer tiles than there are processes
)
BATCHES_A_MESSAGE = (
    2  # batches that are ordered, and answered, by one message: so a part waits behind those that are begun
)

Pair = tuple[int, int]  # (epoch, sample)
Block = Sequence[Sequence[Pair]]  # batches whose tiles are read ahead together


class DecodedBatch(NamedTuple):
    """A decoded batch: its pairs, the flat buffer, (height, width) of each slot, and what was replaced by slot."""

    pairs: Sequence[Pair]
    buffer: NDArray[np.uint8]
    sizes: list[Pair]
    bad: dict[int, BadTile]


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

    def __init__(self, data: DatasetSpec, layout: BufferLayout, workers: int) -> None:
        self._layout, self._remote = layout, "://" in data.folder
        self._depth = max(QUEUED_BATCHES, -(-(MAX_IN_FLIGHT + 1) * workers // layout.slots))
        self._buffers = SharedBufferPool(layout)
        self._workers: list[WorkerHandle] = []
        self._selector = selectors.DefaultSelector()
        self._pending: dict[int, _Pending] = {}
        self._requested = self._prefetched = 0
        self._scheduler: WorkStealingScheduler[list[DecodeRequest]] = WorkStealingScheduler(
            workers, self._send, shared=not self._remote
        )
        try:
            for number in range(workers):
                worker = WorkerHandle(WorkerSetup(data, layout, self._buffers.file))
                self._workers.append(worker)
                self._selector.register(worker.connection, selectors.EVENT_READ, number)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> DecodingPool:
        """Return the pool."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the processes; what was handed out stays valid."""
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            worker.join()
        self._selector.close()
        self._buffers.close()

    def batches(self, blocks: Iterable[Block]) -> Iterator[DecodedBatch]:
        """Yield decoded batches in the given order.

        Raises:
            ValueError: a process died, or what it says stops the run.
        """
        queue: deque[int] = deque()
        batches = prefetch_blocks(blocks, self._prefetch if self._remote else None)
        while True:
            while len(queue) <= self._depth - BATCHES_A_MESSAGE and (
                group := list(islice(batches, BATCHES_A_MESSAGE))
            ):
                queue += self._request(group)
            if not queue:
                return
            number = queue.popleft()
            while self._pending[number].slots:
                self._receive()
            yield self._finished(self._pending.pop(number))

    def _finished(self, batch: _Pending) -> DecodedBatch:
        return DecodedBatch(batch.pairs, self._buffers.lend(batch.buffer), batch.sizes, batch.lost)

    def _prefetch(self, block: Block) -> None:
        """Tell each process which tiles of the next block it will be asked for."""
        samples: list[list[int]] = [[] for _ in self._workers]
        for pairs in block:
            for who, its in self._parts(self._prefetched, len(pairs)).items():
                samples[who] += [pairs[slot][1] for slot in its]
            self._prefetched += 1
        for worker, wanted in zip(self._workers, samples, strict=True):
            if wanted:
                worker.send(PrefetchRequest(wanted))

    def _request(self, group: Sequence[Sequence[Pair]]) -> range:
        """Have some batches decoded; return their numbers."""
        orders: list[list[DecodeRequest]] = [[] for _ in self._workers]
        numbers = range(self._requested, self._requested + len(group))
        for number, pairs in zip(numbers, group, strict=True):
            buffer, shares = self._buffers.acquire(), self._parts(number, len(pairs))
            self._pending[number] = _Pending(pairs, buffer, shares, [(0, 0)] * len(pairs))
            for who, its in shares.items():
                orders[who].append(DecodeRequest(number, who, buffer, its, [pairs[slot][1] for slot in its]))
        self._requested = numbers.stop
        for who, its_orders in enumerate(orders):
            if its_orders:
                self._scheduler.add(who, its_orders)
        self._scheduler.steal()
        return numbers

    def _send(self, who: int, orders: list[DecodeRequest]) -> None:
        self._workers[who].send(orders)

    def _parts(self, number: int, tiles: int) -> dict[int, range]:
        """Return the slots of each process's share of a batch; a share without any is left out."""
        workers, slots = len(self._workers), self._layout.slots
        first = -number * slots if slots < workers else 0
        shares = {who: range((who + first) % workers, tiles, workers) for who in range(workers)}
        return {who: its for who, its in shares.items() if its}

    def _receive(self) -> None:
        """Wait for answers and take them."""
        for key, _ in self._selector.select():
            for done in self._workers[key.data].receive():
                batch = self._pending[done.batch]
                for slot, size in zip(batch.slots.pop(done.part), done.sizes, strict=True):
                    batch.sizes[slot] = size
                batch.lost |= done.bad
            self._scheduler.done(key.data)
        self._scheduler.steal()


def prefetch_blocks(
    blocks: Iterable[Block], announce: Callable[[Block], None] | None
) -> Iterator[Sequence[Pair]]:
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
