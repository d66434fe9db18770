"""The memory that the requests of all streams share."""

import threading
from collections.abc import Callable


class MemoryBudget:
    """Bytes of requests without a written answer, over all streams; who finds it full waits.

    A stream that has no other request may always enter: students that do not read their answers, which are counted
    until then, cannot keep others out, and the bound is ``most`` and one request of each stream.

    Args:
        most: bytes.

    Attributes:
        held: bytes now.
    """

    def __init__(self, most: int) -> None:
        """Nothing is held."""
        self._changed, self._most, self.held = threading.Condition(), most, 0

    def enter(self, size: int, alone: Callable[[], bool], timeout: float) -> bool:
        """Take so many bytes; return False when there was no room in time.

        Args:
            size: bytes.
            alone: whether the stream has no other request; looked at whenever one is left.
            timeout: seconds.
        """
        with self._changed:
            entered = self._changed.wait_for(lambda: self.held + size <= self._most or alone(), timeout)
            self.held += size if entered else 0
        return entered

    def leave(self, size: int) -> None:
        """Give them back."""
        with self._changed:
            self.held -= size
            self._changed.notify_all()
