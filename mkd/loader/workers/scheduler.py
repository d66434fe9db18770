"""Which decoding process does which part of the work next: its own first, another's when it would stand idle."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

MAX_IN_FLIGHT = 2  # parts that a process is given and has not done: the next one is there when it ends one

Part = TypeVar("Part")


class WorkStealingScheduler(Generic[Part]):
    """Parts of work that wait for processes.

    Cores are not equally fast, and a batch waits for its last tile: a process that has nothing left to do takes a part
    from the one that is furthest behind. Until then each does its own, which are neighbours in a shard.

    Args:
        processes: their number, >= 1.
        give: sends a part to a process.
        shared: whether parts may be taken from others.
    """

    def __init__(self, processes: int, give: Callable[[int, Part], None], shared: bool) -> None:
        self._dispatch, self._shared = give, shared
        self._waiting: list[deque[Part]] = [deque() for _ in range(processes)]
        self._busy = [0] * processes

    def add(self, process: int, part: Part) -> None:
        """Have a part done, by this process if it keeps up."""
        self._waiting[process].append(part)
        self._next(process)

    def done(self, process: int) -> None:
        """Count a part as done, and give the process what is next."""
        self._busy[process] -= 1
        self._next(process)

    def steal(self) -> None:
        """Give those that have nothing to do what waits for others."""
        for process, busy in enumerate(self._busy):
            if busy == 0 and self._shared:
                last = max(self._waiting, key=len)
                if last:
                    self._start(process, last.popleft())

    def _next(self, process: int) -> None:
        while self._waiting[process] and self._busy[process] < MAX_IN_FLIGHT:
            self._start(process, self._waiting[process].popleft())

    def _start(self, process: int, part: Part) -> None:
        self._busy[process] += 1
        self._dispatch(process, part)
