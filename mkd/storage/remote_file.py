"""A remote file as a seekable file object that outlives short outages."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Callable

BLOCK = 4 << 20  # bytes a request
KEPT = 8  # blocks in memory: a row of raster windows needs a few places of the file at a time


class RemoteFile(io.RawIOBase):
    """A remote file read by ranges, the blocks read last kept; each request is as patient as who reads it."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        """Open a file.

        Args:
            fetch: reads bytes ``start`` .. ``stop - 1``, fewer where the file ends before.
            size: bytes.
        """
        self._fetch, self._size = fetch, size
        self._place = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the place, bytes from the beginning."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, and return it."""
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def read(self, size: int = -1) -> bytes:
        """Read so many bytes, fewer only at the end of the file.

        Raises:
            ValueError: a place that refuses, or does not answer for too long.
        """
        stop = self._size if size < 0 else min(self._place + size, self._size)
        pieces = []
        while self._place < stop:
            number, start = divmod(self._place, BLOCK)
            piece = self._block(number)[start : start + stop - self._place]
            if not piece:
                break  # the file is shorter than it was
            pieces.append(piece)
            self._place += len(piece)
        return b"".join(pieces)

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            start = number * BLOCK
            data = self._fetch(start, min(start + BLOCK, self._size))
            while len(self._blocks) >= KEPT:
                self._blocks.popitem(last=False)
            self._blocks[number] = data
        self._blocks.move_to_end(number)
        return self._blocks[number]
