"""Peak memory of this process and its children."""

import os
import threading
from pathlib import Path
from types import TracebackType


class PeakMemory:
    """Context manager that samples the proportional set size of a process tree: at its start, then twice a second.

    ``gib`` is the largest sum seen (shared pages counted once), in GiB; None where the system tells no such size
    (Linux does).
    """

    def __init__(self, interval: float = 0.5) -> None:
        self.gib: float | None = None
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        """Take the first sample here, so that even the shortest block has a figure; then sample in a thread."""
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):  # `__exit__` waits for the sample under way
            self._sample()

    def _sample(self) -> None:
        total = sum(_pss_kib(pid) for pid in _tree(os.getpid()))
        if total:
            self.gib = max(self.gib or 0.0, total / 2**20)


def _tree(root: int) -> list[int]:
    """Return a process and its descendants."""
    found, pending = [], [root]
    while pending:
        pid = pending.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                pending += [int(child) for child in task.read_text().split()]
            except OSError:  # the process ended meanwhile
                continue
    return found


def _pss_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
