"""Reads byte ranges in threads before their tiles are asked for, several at a time, in bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

# Ranges read at a time: waiting for one is hidden behind the others; more threads take time from decoding.
THREADS = 3
MAX_BYTES = 256 << 20  # bytes read and not yet used, at which prefetching pauses


class Span(NamedTuple):
    """A piece of a shard: its offset there, and its bytes, maybe a view of a longer piece."""

    start: int
    data: bytes | memoryview


class _RangeRequest(NamedTuple):
    """One range to read: its samples, a future for the bytes of each, and the bytes expected for each."""

    samples: Sequence[int]
    futures: Sequence[Future[Span]]
    tile_bytes: int


class Prefetcher:
    """Reads requested samples in threads and holds each until it is used.

    Threads: the caller's (`request`, `pop`, `close`) and up to `THREADS` of its own. A reading thread waits on
    ``_changed`` for a request in the queue and for memory; the caller waits on the future of its sample. Everything
    that both sides change is changed under ``_changed``; ranges are read outside of it.

    Args:
        fetch: reads samples by one request, called in threads; gives one span a sample.
        max_bytes: bytes that may be held; one request is always allowed.
    """

    def __init__(self, fetch: Callable[[Sequence[int]], Sequence[Span]], max_bytes: int = MAX_BYTES) -> None:
        self._fetch, self._max_bytes, self._held_bytes = fetch, max_bytes, 0
        self._changed = threading.Condition()
        self._queue: deque[_RangeRequest] = deque()  # requests that no thread has begun
        self._requested: dict[int, deque[tuple[_RangeRequest, int]]] = {}  # sample -> its place in requests
        self._threads: list[threading.Thread] = []
        self._closed = False

    def request(self, samples: Sequence[int], tile_bytes: int) -> None:
        """Queue samples that one range holds; one that is requested twice can be popped twice.

        Args:
            samples: of one shard, neighbours.
            tile_bytes: bytes expected for each.
        """
        request = _RangeRequest(samples, [Future() for _ in samples], tile_bytes)
        with self._changed:
            for place, sample in enumerate(samples):
                self._requested.setdefault(sample, deque()).append((request, place))
            self._queue.append(request)
            self._changed.notify_all()  # reading threads wait for a request
        if len(self._threads) < THREADS:  # daemons: a server that does not answer must not hold up the exit
            self._threads.append(threading.Thread(target=self._run, daemon=True))
            self._threads[-1].start()

    def pop(self, sample: int) -> Span | None:
        """Remove and return the bytes of a sample; wait for them where a thread is reading them.

        A request that no thread has begun is read in the caller's thread, whole: its other samples are wanted soon,
        and a request for each of them would cost far more.

        Returns:
            None for a sample that was not requested: the caller reads it.

        Raises:
            Exception: what the reading raised.
        """
        with self._changed:
            waiting = self._requested.get(sample)
            if not waiting:
                return None
            request, place = waiting.popleft()
            if not waiting:
                del self._requested[sample]
            # Under the lock either a thread has taken the request from the queue, or this call takes it.
            queued_at = next((n for n, other in enumerate(self._queue) if other is request), None)
            if queued_at is not None:
                del self._queue[queued_at]
                self._held_bytes += request.tile_bytes * len(request.samples)
            self._held_bytes -= request.tile_bytes
            self._changed.notify_all()  # reading threads wait for memory
        if queued_at is not None:
            self._read(request)
        return request.futures[place].result()

    def close(self) -> None:
        """End the threads after their present range, and drop what is held."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._requested.clear()
            self._changed.notify_all()

    def _run(self) -> None:
        while (request := self._next()) is not None:
            self._read(request)

    def _read(self, request: _RangeRequest) -> None:
        try:
            for future, span in zip(request.futures, self._fetch(request.samples), strict=True):
                future.set_result(span)
        except Exception as error:  # raised in the thread that pops a sample of this request
            for future in request.futures:
                future.set_exception(error)

    def _next(self) -> _RangeRequest | None:
        """Wait for a request and for memory, and count its tiles as held; None after `close`."""
        with self._changed:
            # `request` and `pop` wake this thread.
            self._changed.wait_for(lambda: self._closed or (self._queue and self._fits_in_memory()))
            if self._closed:
                return None
            request = self._queue.popleft()
            self._held_bytes += request.tile_bytes * len(request.samples)
            return request

    def _fits_in_memory(self) -> bool:
        request = self._queue[0]
        size = request.tile_bytes * len(request.samples)
        return self._held_bytes == 0 or self._held_bytes + size <= self._max_bytes
