"""Large files written past the page cache, while the next bytes are made."""

from __future__ import annotations

import errno
import fcntl
import io
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

PIECE = 4 << 20  # bytes of one write
BLOCK = 4096  # bytes: the disk takes whole blocks

_buffers: list[
    mmap.mmap
] = []  # of closed files, for the next ones; they begin at a page, as the disk wants it


class DirectFile(io.RawIOBase):
    """A file whose bytes go to the disk as they come, so that little is left to wait for at its end.

    They do not stay in memory: a large build crowds out nothing that others read. A file system that cannot do this
    (one that lies in memory, say) takes them as usual. An error shows at a later write, or at the end.

    Args:
        path: is made, or emptied.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        _past_the_cache(self._file, True)
        self._buffers = [_buffers.pop() if _buffers else mmap.mmap(-1, PIECE) for _ in range(2)]
        self._filled = 0
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Take some bytes; return how many: all."""
        rest = memoryview(data)
        taken = len(rest)
        while rest:
            piece = rest[: PIECE - self._filled]
            self._buffers[0][self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            rest = rest[len(piece) :]
            if self._filled == PIECE:
                self._send()
        return taken

    def close(self) -> None:
        """Write what is left, whose end is no whole block."""
        if self.closed:
            return
        try:
            self._wait()
            rest, whole = memoryview(self._buffers[0])[: self._filled], self._filled // BLOCK * BLOCK
            _write(self._file, rest[:whole])
            _past_the_cache(self._file, False)
            _write(self._file, rest[whole:])
        finally:
            super().close()
            self._writer.shutdown()
            os.close(self._file)
            _buffers.extend(self._buffers)

    def _send(self) -> None:
        """Have a full buffer written, and go on with the other one."""
        self._wait()
        self._writing = self._writer.submit(_write, self._file, memoryview(self._buffers[0]))
        self._buffers.reverse()
        self._filled = 0

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def _past_the_cache(file: int, wanted: bool) -> None:
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:  # what a file system says that cannot
            raise


def _write(file: int, data: memoryview) -> None:
    while data:
        data = data[os.write(file, data) :]
