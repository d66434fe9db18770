"""Where each tile lies in its shard: the shards' records, read when first needed."""

from __future__ import annotations

import marshal
import threading
from collections import OrderedDict
from concurrent.futures import Future

from mkd.dataset.index import DatasetIndex
from mkd.dataset.shard_record import TileRecord, read_matching_record
from mkd.storage.folder import Folder

MAX_TILES = 300_000  # tiles whose places are remembered, about 0.2 KB each: 256 shards of 1,000; others are read again


class RecordCache:
    """Entries of tiles by shard and row, for several threads.

    Args:
        folder: the data set.
        index: its index; a record must agree with it.
    """

    def __init__(self, folder: Folder, index: DatasetIndex) -> None:
        self._folder, self._index = folder, index
        self._lock, self._tiles = threading.Lock(), 0
        self._shards: OrderedDict[int, list[bytes] | Future[list[bytes]]] = OrderedDict()

    def record(self, shard: int, row: int) -> TileRecord:
        """Return key, size and members of a tile; these are plain tuples of a `Member`'s three numbers.

        Raises:
            ValueError: the shard's record is missing, damaged or of another data set.
        """
        with self._lock:
            rows = self._shards.get(shard)
            if isinstance(rows, list):
                self._shards.move_to_end(shard)
        if not isinstance(rows, list):
            rows = self._rows(shard)
        return TileRecord._make(marshal.loads(rows[row]))

    def _rows(self, shard: int) -> list[bytes]:
        """Return the entries of a shard packed, a fifth of their size as objects; one thread reads them."""
        with self._lock:
            rows = self._shards.get(shard)
            if known := rows is not None:
                self._shards.move_to_end(shard)
            else:
                rows = self._shards[shard] = Future()
                self._tiles += self._index.shards[shard].samples
                while self._tiles > MAX_TILES and len(self._shards) > 1:
                    self._tiles -= self._index.shards[self._shards.popitem(last=False)[0]].samples
        if isinstance(rows, list):  # by now
            return rows
        if not known:
            try:
                rows.set_result(self._load(shard))
                with self._lock:
                    if shard in self._shards:
                        self._shards[shard] = rows.result()
            except Exception as error:  # told to all threads that wait; remembered, for it is final
                rows.set_exception(error)
        return rows.result()

    def _load(self, shard: int) -> list[bytes]:
        info = self._index.shards[shard]
        return [
            marshal.dumps((key, tuple(size), {kind: tuple(member) for kind, member in members.items()}))
            for key, size, members in read_matching_record(self._folder, info).tiles
        ]
