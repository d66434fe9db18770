"""Decodes batches in processes: in the order asked for, some of them before they are asked for; no torch."""

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
    6  # batches that are decoded before their use; more where they have fewer tiles than processes
)
# Batches that are requested, and answered, by one message: fewer messages, but a part waits for its whole message.
BATCHES_A_MESSAGE = 2

Pair = tuple[int, int]  # (epoch, sample)
Block = Sequence[Sequence[Pair]]  # batches whose tiles are prefetched together


class DecodedBatch(NamedTuple):
    """A decoded batch in a shared buffer.

    Attributes:
        pairs: (epoch, sample) of each slot.
        buffer: flat uint8, see `BufferLayout`.
        sizes: (height, width) of each slot in pixels.
        bad: slot -> the bad tile that was replaced there.
    """

    pairs: Sequence[Pair]
    buffer: NDArray[np.uint8]
    sizes: list[tuple[int, int]]
    bad: dict[int, BadTile]


@dataclass
class _Pending:
    """A batch that processes are decoding."""

    pairs: Sequence[Pair]
    buffer: int
    parts: dict[int, range]  # part -> its slots, until it is answered
    sizes: list[tuple[int, int]]
    bad: dict[int, BadTile] = field(default_factory=dict)


class DecodingPool:
    """Processes that decode the batches of one stream into shared memory.

    A batch has as many parts as there are processes, slot s in part s mod workers, so that neighbours in a shard are
    read by one process; where there are more processes than slots, parts take turns by batch. A process does its own
    parts. Where it falls behind, those of a local data set are done by others; those of a remote one never are,
    because their process prefetches them.

    One thread uses the pool. It waits only in `_receive`, for the answers to the batch that it yields next; processes
    wait for requests. A buffer passes from the pool to processes by a `DecodeRequest`, back by the `DecodeResult`
    of its last part, and on to the caller, whose arrays keep it until they are garbage.

    Args:
        spec: the data set.
        layout: of a batch buffer.
        workers: processes, >= 1.
    """

    def __init__(self, spec: DatasetSpec, layout: BufferLayout, workers: int) -> None:
        self._layout, self._remote = layout, "://" in spec.folder
        self._depth = max(QUEUED_BATCHES, -(-(MAX_IN_FLIGHT + 1) * workers // layout.slots))
        self._buffers = SharedBufferPool(layout)
        self._workers: list[WorkerHandle] = []
        self._selector = selectors.DefaultSelector()
        self._pending: dict[int, _Pending] = {}
        self._requested = self._prefetched = 0  # batches so far: the numbers of the next ones
        self._scheduler: WorkStealingScheduler[list[DecodeRequest]] = WorkStealingScheduler(
            workers, self._send, may_steal=not self._remote
        )
        try:
            for number in range(workers):
                worker = WorkerHandle(WorkerSetup(spec, layout, self._buffers.file))
                self._workers.append(worker)
                self._selector.register(worker.connection, selectors.EVENT_READ, number)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> DecodingPool:
        """Return the pool."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the processes; batches that were yielded stay valid."""
        for worker in self._workers:
            worker.connection.close()  # of all before the first wait: they exit at the same time
        for worker in self._workers:
            worker.join()
        self._selector.close()
        self._buffers.close()

    def batches(self, blocks: Iterable[Block]) -> Iterator[DecodedBatch]:
        """Yield decoded batches in the given order.

        Raises:
            ValueError: a process died, or reports an error that stops the run.
        """
        queue: deque[int] = deque()  # numbers of requested batches, in their order
        batches = prefetch_blocks(blocks, self._prefetch if self._remote else None)
        while True:
            # Request before waiting, so that no process is idle while the caller works on a batch.
            while len(queue) <= self._depth - BATCHES_A_MESSAGE and (
                group := list(islice(batches, BATCHES_A_MESSAGE))
            ):
                queue += self._request(group)
            if not queue:
                return
            number = queue.popleft()
            while self._pending[number].parts:
                self._receive()
            yield self._finished(self._pending.pop(number))

    def _finished(self, batch: _Pending) -> DecodedBatch:
        return DecodedBatch(batch.pairs, self._buffers.lend(batch.buffer), batch.sizes, batch.bad)

    def _prefetch(self, block: Block) -> None:
        """Tell each process which tiles of the next block are in its parts."""
        samples: list[list[int]] = [[] for _ in self._workers]
        for pairs in block:
            for part, slots in self._parts(self._prefetched, len(pairs)).items():
                samples[part] += [pairs[slot][1] for slot in slots]
            self._prefetched += 1
        for worker, its_samples in zip(self._workers, samples, strict=True):
            if its_samples:
                worker.send(PrefetchRequest(its_samples))

    def _request(self, group: Sequence[Sequence[Pair]]) -> range:
        """Cut some batches into parts and queue these for their processes; return the batches' numbers."""
        requests: list[list[DecodeRequest]] = [[] for _ in self._workers]
        numbers = range(self._requested, self._requested + len(group))
        for number, pairs in zip(numbers, group, strict=True):
            buffer, parts = self._buffers.acquire(), self._parts(number, len(pairs))
            self._pending[number] = _Pending(pairs, buffer, parts, [(0, 0)] * len(pairs))
            for part, slots in parts.items():
                samples = [pairs[slot][1] for slot in slots]
                requests[part].append(DecodeRequest(number, part, buffer, slots, samples))
        self._requested = numbers.stop
        for process, its_requests in enumerate(requests):
            if its_requests:
                self._scheduler.add(process, its_requests)
        self._scheduler.steal()
        return numbers

    def _send(self, process: int, requests: list[DecodeRequest]) -> None:
        self._workers[process].send(requests)

    def _parts(self, number: int, tiles: int) -> dict[int, range]:
        """Return the slots of each part of a batch, which is its process's number; empty parts are left out."""
        workers, slots = len(self._workers), self._layout.slots
        first = -number * slots if slots < workers else 0
        parts = {part: range((part + first) % workers, tiles, workers) for part in range(workers)}
        return {part: its_slots for part, its_slots in parts.items() if its_slots}

    def _receive(self) -> None:
        """Wait until at least one process answers, and note which parts are done."""
        for key, _ in self._selector.select():
            for result in self._workers[key.data].receive():
                batch = self._pending[result.batch]
                for slot, size in zip(batch.parts.pop(result.part), result.sizes, strict=True):
                    batch.sizes[slot] = size
                batch.bad |= result.bad
            self._scheduler.done(key.data)
        self._scheduler.steal()


def prefetch_blocks(
    blocks: Iterable[Block], prefetch: Callable[[Block], None] | None
) -> Iterator[Sequence[Pair]]:
    """Yield the batches of blocks, and prefetch a block when the one before it begins."""
    prefetch = prefetch or (lambda block: None)
    rest = iter(blocks)
    block = next(rest, None)
    if block is not None:
        prefetch(block)
    while block is not None:
        following = next(rest, None)
        if following is not None:
            prefetch(following)
        yield from block
        block = following
