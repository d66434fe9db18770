"""A remote file as a seekable file object that outlives short outages."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Callable

BLOCK_BYTES = 4 << 20  # bytes of one request
MAX_BLOCKS = 8  # blocks in memory: a row of raster windows needs a few places of the file at a time


class RemoteFile(io.RawIOBase):
    """A remote file read by ranges, with the blocks used last in memory; `fetch` decides how often it tries again."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        """Open a file.

        Args:
            fetch: reads bytes ``start`` .. ``stop - 1``, fewer where the file ends before.
            size: bytes.
        """
        self._fetch, self._size = fetch, size
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()  # least recently used first

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes from the beginning."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, and return it."""
        self._position = (
            offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        )
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Read so many bytes, fewer only at the end of the file.

        Raises:
            ValueError: the server refuses, or does not answer for too long.
        """
        stop = self._size if size < 0 else min(self._position + size, self._size)
        pieces = []
        while self._position < stop:
            number, start = divmod(self._position, BLOCK_BYTES)
            piece = self._block(number)[start : start + stop - self._position]
            if not piece:
                break  # the file is shorter than it was
            pieces.append(piece)
            self._position += len(piece)
        return b"".join(pieces)

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            start = number * BLOCK_BYTES
            data = self._fetch(start, min(start + BLOCK_BYTES, self._size))
            while len(self._blocks) >= MAX_BLOCKS:
                self._blocks.popitem(last=False)
            self._blocks[number] = data
        self._blocks.move_to_end(number)
        return self._blocks[number]
