"""Reads members of tiles from shards on a disk: files stay open, contents share one buffer."""

from __future__ import annotations

import os
import resource
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from mkd.dataset.index import DatasetIndex
from mkd.dataset.shard_record import Content, Members, TileRecord, member_fault

# Shard files kept open: a batch of 256 reads so many, and as many when it comes to new ones.
MAX_OPEN_FILES = 512
READ_BUFFER = 1 << 20  # bytes in which tiles are read at first; more where they need it


class LocalShards:
    """The shards of a data set in a local folder; used by one thread.

    Args:
        folder: of the data set.
        index: its index.
    """

    def __init__(self, folder: Path, index: DatasetIndex) -> None:
        self._folder, self._index = folder, index
        self._files: OrderedDict[int, int] = OrderedDict()  # shard -> descriptor, least recently used first
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._max_files = MAX_OPEN_FILES if limit < 0 else min(MAX_OPEN_FILES, max(limit // 2, 1))
        self._buffer, self._used = memoryview(bytearray(READ_BUFFER)), 0

    def reuse_buffer(self) -> None:
        """Let the next reads overwrite what was read before."""
        self._used = 0

    def read(self, shard: int, record: TileRecord, kinds: Sequence[str]) -> tuple[Members, str]:
        """Read members of a tile.

        Args:
            shard: its number.
            record: of the tile.
            kinds: extensions of the members.

        Returns:
            The members, valid until `reuse_buffer`; and "" or what is wrong with the first bad one.

        Raises:
            OSError: the shard is missing, has another size, or cannot be read.
        """
        members, fault = dict[str, Content](), ""
        if (file := self._files.get(shard)) is None:
            file = self._open(shard)
        else:
            self._files.move_to_end(shard)
        for kind in kinds:
            offset, size, _ = member = record.members[kind]
            piece = self._allocate(size)
            content = members[kind] = piece[: os.preadv(file, [piece], offset)]
            fault = fault or member_fault(kind, content, member)
        return members, fault

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.popitem()[1])

    def _allocate(self, size: int) -> memoryview:
        """Return free memory of the buffer; a larger one replaces it when it is full, views of the old one stay."""
        if self._used + size > len(self._buffer):
            self._buffer, self._used = memoryview(bytearray(2 * (self._used + size))), 0
        self._used += size
        return self._buffer[self._used - size : self._used]

    def _open(self, shard: int) -> int:
        """Open a shard and return its descriptor; close the least recently used one where there are too many."""
        if len(self._files) >= self._max_files:
            os.close(self._files.popitem(last=False)[1])
        info = self._index.shards[shard]
        file = self._files[shard] = os.open(info.url or f"{self._folder}/{info.file}", os.O_RDONLY)
        size = os.fstat(file).st_size
        if size != info.bytes:
            os.close(self._files.pop(shard))
            raise OSError(f"the shard has {size} bytes, the index says {info.bytes}")
        return file
