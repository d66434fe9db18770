"""Work stealing: each decoding process does its own parts first, and takes another's when it would be idle."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

MAX_IN_FLIGHT = 2  # parts sent to a process and not answered: the next one is there when it ends one

Part = TypeVar("Part")


class WorkStealingScheduler(Generic[Part]):
    """Queues of parts of work, one a process.

    Cores are not equally fast, and a batch waits for its last tile: a process without work takes a part from the one
    with the longest queue. Until then each does its own, which are neighbours in a shard. Used by one thread.

    Args:
        processes: their number, >= 1.
        dispatch: sends a part to a process.
        may_steal: whether a process may do parts of others.
    """

    def __init__(self, processes: int, dispatch: Callable[[int, Part], None], may_steal: bool) -> None:
        self._dispatch, self._may_steal = dispatch, may_steal
        self._queues: list[deque[Part]] = [deque() for _ in range(processes)]
        self._in_flight = [0] * processes

    def add(self, process: int, part: Part) -> None:
        """Queue a part for a process; another one may steal it."""
        self._queues[process].append(part)
        self._fill(process)

    def done(self, process: int) -> None:
        """Count a part as answered, and send the process its next ones."""
        self._in_flight[process] -= 1
        self._fill(process)

    def steal(self) -> None:
        """Send idle processes one part each of the longest queue."""
        for process, in_flight in enumerate(self._in_flight):
            if in_flight == 0 and self._may_steal:
                longest = max(self._queues, key=len)
                if longest:
                    self._send(process, longest.popleft())

    def _fill(self, process: int) -> None:
        while self._queues[process] and self._in_flight[process] < MAX_IN_FLIGHT:
            self._send(process, self._queues[process].popleft())

    def _send(self, process: int, part: Part) -> None:
        self._in_flight[process] += 1
        self._dispatch(process, part)
