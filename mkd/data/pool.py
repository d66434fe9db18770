"""Decoding processes and the order of what they decode: batches come as asked for, a few are made ahead; no torch."""

from __future__ import annotations

import selectors
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mkd.data.decoder import Decoder
from mkd.data.messages import Ahead, Order, Setup
from mkd.data.reader import DataSet, Lost
from mkd.data.ring import Layout, Ring

DEPTH = 4  # batches that are decoded ahead; more where they have fewer tiles than there are processes

Pair = tuple[int, int]  # (epoch, sample)
Block = Sequence[Sequence[Pair]]  # batches whose tiles are read ahead together


class Filled(NamedTuple):
    """A decoded batch: its pairs, the flat buffer, (height, width) of each slot, and what was replaced by slot."""

    pairs: Sequence[Pair]
    buffer: NDArray[np.uint8]
    sizes: list[Pair]
    lost: dict[int, Lost]


@dataclass
class _Pending:
    """A batch that processes are working on."""

    pairs: Sequence[Pair]
    buffer: int
    missing: int  # answers
    sizes: dict[int, Pair] = field(default_factory=dict)
    lost: dict[int, Lost] = field(default_factory=dict)


class Pool:
    """Processes that decode the batches of one stream into shared memory.

    Slot s of a batch is always decoded by process s mod workers, so that neighbours in a shard are read by one
    process; where there are more processes than slots they take turns by batch.

    Args:
        data: the data set.
        layout: of a batch buffer.
        workers: processes, >= 1.
    """

    def __init__(self, data: DataSet, layout: Layout, workers: int) -> None:
        self._layout, self._remote = layout, "://" in data.folder
        self._depth = max(DEPTH, -(-2 * workers // layout.slots))
        self._ring = Ring(layout)
        self._workers: list[Decoder] = []
        self._selector = selectors.DefaultSelector()
        self._pending: dict[int, _Pending] = {}
        self._ordered = self._announced = 0
        for _ in range(workers):
            worker = Decoder(Setup(data, layout, self._ring.file))
            self._workers.append(worker)
            self._selector.register(worker.line, selectors.EVENT_READ, worker)

    def __enter__(self) -> Pool:
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

    def batches(self, blocks: Iterable[Block]) -> Iterator[Filled]:
        """Yield decoded batches in the given order.

        Raises:
            ValueError: a process died, or what it says stops the run.
        """
        queue: deque[int] = deque()
        batches = read_ahead(blocks, self._announce if self._remote else None)
        while True:
            while len(queue) < self._depth and (pairs := next(batches, None)) is not None:
                queue.append(self._order(pairs))
            if not queue:
                return
            number = queue.popleft()
            while self._pending[number].missing:
                self._hear()
            yield self._finished(self._pending.pop(number))

    def _finished(self, batch: _Pending) -> Filled:
        sizes = [batch.sizes[slot] for slot in range(len(batch.pairs))]
        return Filled(batch.pairs, self._ring.hand_out(batch.buffer), sizes, batch.lost)

    def _announce(self, block: Block) -> None:
        """Tell each process which tiles of the next block it will be asked for."""
        samples: list[list[int]] = [[] for _ in self._workers]
        for pairs in block:
            for slot, (_, sample) in enumerate(pairs):
                samples[self._who(self._announced, slot)].append(sample)
            self._announced += 1
        for worker, its in zip(self._workers, samples, strict=True):
            if its:
                worker.tell(Ahead(its))

    def _order(self, pairs: Sequence[Pair]) -> int:
        """Have a batch decoded; return its number."""
        work: dict[int, list[Pair]] = {}
        for slot, (_, sample) in enumerate(pairs):
            work.setdefault(self._who(self._ordered, slot), []).append((slot, sample))
        number, buffer = self._ordered, self._ring.take()
        self._ordered += 1
        self._pending[number] = _Pending(pairs, buffer, len(work))
        for who, its in work.items():
            self._workers[who].tell(Order(number, buffer, its))
        return number

    def _who(self, number: int, slot: int) -> int:
        workers, slots = len(self._workers), self._layout.slots
        return (slot + (number * slots if slots < workers else 0)) % workers

    def _hear(self) -> None:
        """Wait for answers and take them."""
        for key, _ in self._selector.select():
            answer = key.data.hear()
            batch = self._pending[answer.number]
            batch.sizes |= answer.sizes
            batch.lost |= answer.lost
            batch.missing -= 1


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
