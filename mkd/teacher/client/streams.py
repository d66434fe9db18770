"""The request streams that are open to one endpoint, one for each tile size."""

import contextlib
import time
from typing import Any

from mkd.teacher.client.flight_client import Lost


class Streams:
    """Writers and readers; the desk's lock is held for every call but `hang_up`."""

    def __init__(self) -> None:
        """Nothing is open."""
        self._open: dict[tuple[int, int], tuple[Any, Any, float]] = {}  # and when it was opened
        self._old: list[tuple[Any, Any]] = []  # no more requests; the last answers come
        self._outgrown: list[Any] = []
        self._dropped: list[Any] = []

    def writer(self, size: tuple[int, int]) -> Any:
        """Return the writer of the stream of this tile size (H, W), or None."""
        return self._open[size][0] if size in self._open else None

    def add(self, size: tuple[int, int], writer: Any, reader: Any) -> None:
        """Keep an open stream."""
        self._open[size] = writer, reader, time.monotonic()

    def outgrow(self, before: float) -> None:
        """Let streams opened before a time, monotonic seconds, end once their answers are there."""
        for size, (writer, reader, opened) in list(self._open.items()):
            if opened < before:
                del self._open[size]
                self._old.append((writer, reader))
                self._outgrown.append(writer)

    def outgrown(self) -> list[Any]:
        """Return the writers whose end is to be told the teacher, once."""
        writers, self._outgrown = self._outgrown, []
        return writers

    def ended(self, reader: Any) -> bool:
        """Return whether a stream that has ended was to end; its writer is then closed by `hang_up`."""
        for writer, other in self._old:
            if other is reader:
                self._old.remove((writer, other))
                self._dropped.append(writer)
                return True
        return False

    def drop(self, writer: Any, reader: Any) -> None:
        """Cancel one stream; its writer is closed by `hang_up`."""
        reader.cancel()
        self._dropped.append(writer)

    def drop_all(self) -> None:
        """Cancel all streams."""
        for writer, reader in [*(s[:2] for s in self._open.values()), *self._old]:
            self.drop(writer, reader)
        self._open.clear()
        self._old.clear()
        self._outgrown.clear()

    def dropped(self) -> list[Any]:
        """Return the writers to close, once."""
        writers, self._dropped = self._dropped, []
        return writers

    @property
    def untidy(self) -> bool:
        """Whether there are writers to close, or whose end is to be told."""
        return bool(self._dropped or self._outgrown)

    @staticmethod
    def hang_up(writers: list[Any]) -> None:
        """Close writers, from the thread that writes; unclosed, the library would complain on stderr."""
        for writer in writers:
            with contextlib.suppress(*Lost):
                writer.close()
