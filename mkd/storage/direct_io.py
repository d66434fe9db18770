"""Writes large files past the page cache, one buffer to the disk while the next one is filled."""

from __future__ import annotations

import errno
import fcntl
import io
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

BUFFER_BYTES = 4 << 20  # bytes of one write
BLOCK_BYTES = 4096  # direct I/O writes whole blocks from memory that begins at a page

# Buffers of closed files, for the next ones: fresh pages would have to be zeroed by the kernel.
_spare_buffers: list[mmap.mmap] = []


class DirectFile(io.RawIOBase):
    """A file opened for direct I/O: its bytes reach the disk as they come, so that closing waits for little.

    They do not stay in memory: a large build evicts nothing that others read. A file system without direct I/O
    (tmpfs, say) writes through its page cache. An error of a write is raised by a later one, or by `close`.

    Args:
        path: is made, or emptied.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        _set_direct(self._file, True)
        self._buffers = [
            _spare_buffers.pop() if _spare_buffers else mmap.mmap(-1, BUFFER_BYTES) for _ in range(2)
        ]
        self._filled = 0
        # One thread: at most one buffer is on its way to the disk while the caller fills the other.
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Copy bytes into the buffer, and send it to the disk whenever it is full; return their number."""
        rest = memoryview(data)
        size = len(rest)
        while rest:
            piece = rest[: BUFFER_BYTES - self._filled]
            self._buffers[0][self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            rest = rest[len(piece) :]
            if self._filled == BUFFER_BYTES:
                self._submit_buffer()
        return size

    def close(self) -> None:
        """Write the bytes that are left; the part behind the last whole block needs the page cache."""
        if self.closed:
            return
        try:
            self._wait_for_write()
            rest, whole = (
                memoryview(self._buffers[0])[: self._filled],
                self._filled // BLOCK_BYTES * BLOCK_BYTES,
            )
            _write_all(self._file, rest[:whole])
            _set_direct(self._file, False)
            _write_all(self._file, rest[whole:])
        finally:
            super().close()
            self._writer.shutdown()
            os.close(self._file)
            _spare_buffers.extend(self._buffers)

    def _submit_buffer(self) -> None:
        """Hand the full buffer to the writing thread, and go on with the other one."""
        # The other buffer may still be on its way to the disk: the caller waits for the thread before it fills it.
        self._wait_for_write()
        self._writing = self._writer.submit(_write_all, self._file, memoryview(self._buffers[0]))
        self._buffers.reverse()
        self._filled = 0

    def _wait_for_write(self) -> None:
        """Wait for the writing thread; raise its error once."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def _set_direct(file: int, direct: bool) -> None:
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, flags | os.O_DIRECT if direct else flags & ~os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the answer of a file system without direct I/O
            raise


def _write_all(file: int, data: memoryview) -> None:
    while data:
        data = data[os.write(file, data) :]
