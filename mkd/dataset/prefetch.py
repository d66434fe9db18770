"""Tiles read ahead of their use, several ranges at a time, in bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

THREADS = (
    3  # ranges read at a time: waiting for one is hidden behind the others; more take time from decoding
)
MAX_BYTES = 256 << 20  # bytes read and not yet taken, at which reading ahead pauses


class Span(NamedTuple):
    """A piece of a shard: its offset there, and its bytes, maybe a view of a longer piece."""

    start: int
    data: bytes | memoryview


class _RangeRequest(NamedTuple):
    """One range to read: its samples, what each of them waits for, and the bytes expected for each."""

    samples: Sequence[int]
    futures: Sequence[Future[Span]]
    share: int


class Prefetcher:
    """Reads orders of samples in threads and keeps each tile until it is taken.

    Args:
        fetch: reads samples by one request, called in threads; gives one span a sample.
        limit: bytes that may be held; one order is always allowed.
    """

    def __init__(self, fetch: Callable[[Sequence[int]], Sequence[Span]], limit: int = MAX_BYTES) -> None:
        self._fetch, self._limit, self._held_bytes = fetch, limit, 0
        self._change = threading.Condition()
        self._queue: deque[_RangeRequest] = deque()
        self._requested: dict[int, deque[tuple[_RangeRequest, int]]] = {}
        self._threads: list[threading.Thread] = []
        self._closed = False

    def request(self, samples: Sequence[int], share: int) -> None:
        """Ask for samples that one request reads; one that is asked for twice can be taken twice.

        Args:
            samples: of one shard, neighbours.
            share: bytes expected for each.
        """
        order = _RangeRequest(samples, [Future() for _ in samples], share)
        with self._change:
            for place, sample in enumerate(samples):
                self._requested.setdefault(sample, deque()).append((order, place))
            self._queue.append(order)
            self._change.notify_all()
        if len(self._threads) < THREADS:  # daemons: a server that does not answer must not hold up the end
            self._threads.append(threading.Thread(target=self._serve, daemon=True))
            self._threads[-1].start()

    def pop(self, sample: int) -> Span | None:
        """Return what was read of a sample, waiting for it where its reading has begun.

        An order whose turn has not come is read here and now, whole: its other samples are wanted soon, and a request
        for each of them would cost far more.

        Returns:
            None for a sample that was not asked for: the caller reads it.

        Raises:
            Exception: what the reading raised.
        """
        with self._change:
            waiting = self._requested.get(sample)
            if not waiting:
                return None
            order, place = waiting.popleft()
            if not waiting:
                del self._requested[sample]
            mine = next((n for n, other in enumerate(self._queue) if other is order), None)
            if mine is not None:
                del self._queue[mine]
                self._held_bytes += order.share * len(order.samples)
            self._held_bytes -= order.share
            self._change.notify_all()
        if mine is not None:
            self._read(order)
        return order.futures[place].result()

    def close(self) -> None:
        """Read no more and drop what is held."""
        with self._change:
            self._closed = True
            self._queue.clear()
            self._requested.clear()
            self._change.notify_all()

    def _serve(self) -> None:
        while (order := self._next()) is not None:
            self._read(order)

    def _read(self, order: _RangeRequest) -> None:
        try:
            for future, span in zip(order.futures, self._fetch(order.samples), strict=True):
                future.set_result(span)
        except Exception as error:  # told to whoever takes the tiles
            for future in order.futures:
                future.set_exception(error)

    def _next(self) -> _RangeRequest | None:
        """Wait for an order and for room; count its tiles as held. None after the end."""
        with self._change:
            self._change.wait_for(lambda: self._closed or (self._queue and self._has_room()))
            if self._closed:
                return None
            order = self._queue.popleft()
            self._held_bytes += order.share * len(order.samples)
            return order

    def _has_room(self) -> bool:
        order = self._queue[0]
        return self._held_bytes == 0 or self._held_bytes + order.share * len(order.samples) <= self._limit
