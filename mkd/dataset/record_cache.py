"""Finds the shard, row and record of a tile; the records of a shard are read when first needed."""

from __future__ import annotations

import marshal
import threading
from bisect import bisect_right
from collections import OrderedDict
from concurrent.futures import Future
from itertools import accumulate

from mkd.dataset.index import DatasetIndex
from mkd.dataset.shard_record import TileRecord, read_matching_record
from mkd.storage.folder import Folder

# Tiles whose records are in memory, about 0.2 KB each: 256 shards of 1,000; others are read again.
MAX_TILES = 300_000


class RecordCache:
    """Records of tiles by shard and row, for several threads.

    The least recently used shards are dropped beyond `MAX_TILES`. Of several threads that need the same shard one
    reads its record, and the others wait for the future that it left in the table; ``_lock`` guards the table only and
    is never held while a record is read.

    Args:
        folder: the data set.
        index: its index; a record must agree with it.
    """

    def __init__(self, folder: Folder, index: DatasetIndex) -> None:
        self._folder, self._index = folder, index
        self._ends = list(accumulate(index.shards.samples))
        self._starts = [0, *self._ends]
        self._lock, self._tiles = threading.Lock(), 0
        self._shards: OrderedDict[int, list[bytes] | Future[list[bytes]]] = OrderedDict()

    def locate(self, sample: int) -> tuple[int, int]:
        """Return the shard that holds a sample, and its row there."""
        shard = bisect_right(self._ends, sample)
        return shard, sample - self._starts[shard]

    def record(self, shard: int, row: int) -> TileRecord:
        """Return key, size and members of a tile; these are plain tuples of a `Member`'s three numbers.

        Raises:
            ValueError: the shard's record is missing, damaged or of another data set.
        """
        with self._lock:  # held for a moment by the threads that look up or add a shard
            rows = self._shards.get(shard)
            if isinstance(rows, list):
                self._shards.move_to_end(shard)
        if not isinstance(rows, list):
            rows = self._rows(shard)
        return TileRecord._make(marshal.loads(rows[row]))

    def _rows(self, shard: int) -> list[bytes]:
        """Return the records of a shard packed, a fifth of their size as objects; one thread reads them."""
        # Whoever finds no entry leaves a future, and reads; whoever finds a future waits for that thread.
        with self._lock:
            rows = self._shards.get(shard)
            if known := rows is not None:
                self._shards.move_to_end(shard)
            else:
                rows = self._shards[shard] = Future()
                self._tiles += self._index.shards[shard].samples
                while self._tiles > MAX_TILES and len(self._shards) > 1:
                    self._tiles -= self._index.shards[self._shards.popitem(last=False)[0]].samples
        if isinstance(rows, list):  # read by another thread meanwhile
            return rows
        if not known:
            try:
                rows.set_result(self._load(shard))
                with self._lock:
                    if shard in self._shards:  # it may have been dropped meanwhile
                        self._shards[shard] = rows.result()
            except Exception as error:  # raised in all threads that wait; remembered, for it is permanent
                rows.set_exception(error)
        return rows.result()

    def _load(self, shard: int) -> list[bytes]:
        info = self._index.shards[shard]
        return [
            marshal.dumps((key, tuple(size), {kind: tuple(member) for kind, member in members.items()}))
            for key, size, members in read_matching_record(self._folder, info).tiles
        ]
