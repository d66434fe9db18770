"""The request streams that are open to one endpoint, one for each tile size."""

import contextlib
from typing import Any

from mkd.teacher.calls import Lost


class Streams:
    """Writers and readers; the desk's lock is held for every call but `hang_up`."""

    def __init__(self) -> None:
        """Nothing is open."""
        self._open: dict[tuple[int, int], tuple[Any, Any]] = {}
        self._dropped: list[Any] = []

    def writer(self, size: tuple[int, int]) -> Any:
        """Return the writer of the stream of this tile size (H, W), or None."""
        return self._open[size][0] if size in self._open else None

    def add(self, size: tuple[int, int], writer: Any, reader: Any) -> None:
        """Keep an open stream."""
        self._open[size] = writer, reader

    def drop(self, writer: Any, reader: Any) -> None:
        """Cancel one stream; its writer is closed by `hang_up`."""
        reader.cancel()
        self._dropped.append(writer)

    def drop_all(self) -> None:
        """Cancel all streams."""
        for writer, reader in self._open.values():
            self.drop(writer, reader)
        self._open.clear()

    def dropped(self) -> list[Any]:
        """Return the writers to close, once."""
        writers, self._dropped = self._dropped, []
        return writers

    @property
    def untidy(self) -> bool:
        """Whether there are writers to close."""
        return bool(self._dropped)

    @staticmethod
    def hang_up(writers: list[Any]) -> None:
        """Close writers, from the thread that writes; unclosed, the library would complain on stderr."""
        for writer in writers:
            with contextlib.suppress(*Lost):
                writer.close()
