"""The encoded members of tiles by sample number, from local or remote shards; no decoding, no torch."""

from __future__ import annotations

import logging
import os
import resource
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, NamedTuple

from mkd.dataset.index import DatasetIndex
from mkd.dataset.prefetch import Prefetcher, Span
from mkd.dataset.record_cache import RecordCache
from mkd.dataset.shard_cache import ShardCache
from mkd.dataset.shard_record import Member, TileRecord, member_fault
from mkd.storage.folder import Folder

MAX_OPEN_FILES = (
    512  # shard files kept open: a batch of 256 reads so many, and as many when it comes to new ones
)
MAX_GAP = 256 << 10  # bytes that are read and thrown away rather than asking a server twice
MAX_RANGE = 8 << 20  # bytes of one request
READ_BUFFER = 1 << 20  # bytes in which local tiles are read at first; more where they need it

Content = bytes | memoryview  # a member's content
Members = dict[str, Content]  # content by extension, such as "jpg" and "label.png"

log = logging.getLogger(__name__)


class DamagedTile(ValueError):
    """A tile that cannot be read: one sentence that names shard and key, and says what to do."""


class TileRequest(NamedTuple):
    """Members of a tile to be read: its sample number, its shard, what the record says of it, and which members."""

    sample: int
    shard: int
    record: TileRecord
    kinds: Sequence[str]


class TileSource:
    """Reads members of tiles; length and CRC-32 of each are checked against the shard's record.

    Shards and records are touched when first needed only. One thread may use a source; each process makes its own
    (a pickled source is opened anew).

    Args:
        folder: the data set, local or remote.
        index: its index.
        cache: local folder for whole copies of remote shards; None reads the ranges that are needed. A local data set
            needs none.
        cache_bytes: size that the cache may reach.

    Raises:
        ValueError: a cache folder that cannot be made.
    """

    def __init__(
        self, folder: Folder, index: DatasetIndex, cache: Path | None = None, cache_bytes: int = 0
    ) -> None:
        self._arguments = (folder, index, cache, cache_bytes)
        self.folder, self.index = folder, index
        self._ends = list(accumulate(index.shards.samples))
        self._starts = [0, *self._ends]
        self._records = RecordCache(folder, index)
        self._files: OrderedDict[int, int] = OrderedDict()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = MAX_OPEN_FILES if limit < 0 else min(MAX_OPEN_FILES, max(limit // 2, 1))
        self._space, self._used = memoryview(bytearray(READ_BUFFER)), 0
        remote = folder.local is None
        self._cache = ShardCache(cache, cache_bytes) if remote and cache is not None else None
        self._prefetcher = Prefetcher(self._fetch) if remote else None

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes as arguments."""
        return TileSource, self._arguments

    def find(self, sample: int) -> tuple[int, TileRecord]:
        """Return the shard of a tile, and key, (height, width) and members from the shard's record.

        Raises:
            ValueError: the record is missing, damaged or of another data set.
        """
        shard = bisect_right(self._ends, sample)
        return shard, self._records.record(shard, sample - self._starts[shard])

    def record(self, sample: int) -> TileRecord:
        """Return key, (height, width) and members of a tile, each a `Member`; see `find`."""
        key, size, members = self.find(sample)[1]
        return TileRecord(key, size, {kind: Member(*member) for kind, member in members.items()})

    def read(self, sample: int, kinds: Sequence[str]) -> dict[str, bytes]:
        """Read members of one tile.

        Args:
            sample: 0 <= sample < samples of the data set.
            kinds: extensions, such as "jpg" and "label.png".

        Returns:
            The members' bytes by extension.

        Raises:
            Damaged: a member that is not there, cut short or changed; remote ones were read twice.
            ValueError: no record, or a place that refuses or does not answer.
        """
        shard, entry = self.find(sample)
        lacking = [kind for kind in kinds if kind not in entry.members]
        if lacking:
            raise self._damaged(shard, entry, f"holds {sorted(entry.members)}, no {lacking[0]!r}")
        (tile,) = self.read_all([TileRequest(sample, shard, entry, kinds)])
        if isinstance(tile, DamagedTile):
            raise tile
        return {kind: bytes(data) for kind, data in tile.items()}

    def read_all(self, wanted: Sequence[TileRequest | DamagedTile]) -> list[Members | DamagedTile]:
        """Read members of some tiles.

        Args:
            wanted: the tiles; one that is known to be damaged is passed on.

        Returns:
            For each tile its members, valid until the next call, or why it cannot be read.

        Raises:
            ValueError: a place that refuses or does not answer.
        """
        self._used = 0
        return [each if isinstance(each, DamagedTile) else self._read_tile(each) for each in wanted]

    def prefetch(self, samples: Sequence[int]) -> None:
        """Begin to read tiles that `read` is asked for soon, neighbours at once; local ones need it not."""
        if self._prefetcher is None:
            return
        first = {sample: place for place, sample in reversed(list(enumerate(samples)))}
        runs: list[list[int]] = []
        for shard, group in groupby(sorted(samples), key=lambda sample: self.locate(sample)[0]):
            runs += _runs(group, self._tile_bytes(shard))
        for run in sorted(runs, key=lambda run: min(first[sample] for sample in run)):
            self._prefetcher.request(run, self._tile_bytes(self.locate(run[0])[0]))

    def close(self) -> None:
        """Close files and stop reading ahead."""
        while self._files:
            os.close(self._files.popitem()[1])
        if self._prefetcher is not None:
            self._prefetcher.close()

    def locate(self, sample: int) -> tuple[int, int]:
        """Return the shard that holds a sample, and its row there."""
        shard = bisect_right(self._ends, sample)
        return shard, sample - self._starts[shard]

    def _tile_bytes(self, shard: int) -> int:
        """Return the mean size of a shard's tiles."""
        info = self.index.shards[shard]
        return info.bytes // info.samples

    def _damaged(self, shard: int, entry: TileRecord, fault: str) -> DamagedTile:
        place = self.folder.url_of(self.index.shards[shard].file)
        advice = f"run 'shards verify {self.folder}', copy the shard again or build it again"
        return DamagedTile(f"{place}:{entry.key}: {fault}; {advice}")

    def _read_tile(self, wanted: TileRequest) -> Members | DamagedTile:
        try:
            tile, fault = (
                self._local(wanted) if self._prefetcher is None else self._remote(wanted, self._prefetcher)
            )
        except FileNotFoundError:
            fault = "the shard is missing"
        except OSError as error:
            fault = error.strerror or str(error)
        return self._damaged(wanted.shard, wanted.record, fault) if fault else tile

    def _local(self, wanted: TileRequest) -> tuple[Members, str]:
        """Read a tile; also return "" or what is wrong with its first bad member."""
        _, shard, entry, kinds = wanted
        tile, fault = dict[str, Content](), ""
        if (file := self._files.get(shard)) is None:
            file = self._open(shard)
        else:
            self._files.move_to_end(shard)
        for kind in kinds:
            offset, size, _ = member = entry.members[kind]
            piece = self._room(size)
            data = tile[kind] = piece[: os.preadv(file, [piece], offset)]
            fault = fault or member_fault(kind, data, member)
        return tile, fault

    def _remote(self, wanted: TileRequest, ahead: Prefetcher) -> tuple[Members, str]:
        """Take a tile that was read ahead, or read it; what came damaged is read again."""
        sample, shard, entry, kinds = wanted
        members = [entry.members[kind] for kind in kinds]
        start, stop = _bounds(members)
        tile, fault = _cut(ahead.pop(sample) or self._read_range(shard, start, stop), kinds, members)
        if fault:
            file = self.folder.url_of(self.index.shards[shard].file)
            log.warning("%s:%s: %s; reading it again", file, entry.key, fault)
            tile, fault = _cut(self._read_again(shard, start, stop), kinds, members)
        return tile, fault

    def _room(self, size: int) -> memoryview:
        """Return memory that is free until the next `read_all`; what is in use stays when more is needed."""
        if self._used + size > len(self._space):
            self._space, self._used = memoryview(bytearray(2 * (self._used + size))), 0
        self._used += size
        return self._space[self._used - size : self._used]

    def _read_again(self, shard: int, start: int, stop: int) -> Span:
        """Read from the origin once more what came damaged over the net, or lies damaged in the cache."""
        info = self.index.shards[shard]
        if self._cache is not None:
            self._cache.drop(info)
        return Span(start, self.folder.read(info.file, start, stop))

    def _fetch(self, samples: Sequence[int]) -> list[Span]:
        """Read whole tiles of one shard by one request; called in threads."""
        places = [self.locate(sample) for sample in samples]
        bounds = [_bounds(self._records.record(*place).members.values()) for place in places]
        shard = places[0][0]
        whole = self._read_range(shard, min(start for start, _ in bounds), max(stop for _, stop in bounds))
        view = memoryview(whole.data)  # slices of it are no copies
        return [Span(start, view[start - whole.start : stop - whole.start]) for start, stop in bounds]

    def _read_range(self, shard: int, start: int, stop: int) -> Span:
        """Read a piece of a remote shard, or of its copy."""
        info = self.index.shards[shard]
        copy = self._cache.open(self.folder, info) if self._cache is not None else None
        if copy is None:
            return Span(start, self.folder.read(info.file, start, stop))
        try:
            return Span(start, os.pread(copy, stop - start, start))
        finally:
            os.close(copy)

    def _open(self, shard: int) -> int:
        """Open a local shard; return its descriptor."""
        if len(self._files) >= self._most:
            os.close(self._files.popitem(last=False)[1])
        info = self.index.shards[shard]
        file = self._files[shard] = os.open(f"{self.folder.local}/{info.file}", os.O_RDONLY)
        size = os.fstat(file).st_size
        if size != info.bytes:
            os.close(self._files.pop(shard))
            raise OSError(f"the shard has {size} bytes, the index says {info.bytes}")
        return file


def _bounds(members: Collection[Member]) -> tuple[int, int]:
    """Return where the first of some members begins and the last one ends."""
    offset, size, _ = max(members)  # by offset
    return min(members)[0], offset + size


def _cut(span: Span, kinds: Sequence[str], members: Sequence[Member]) -> tuple[Members, str]:
    """Cut members out of a piece of their shard; "" or what is wrong with the first bad one."""
    tile, fault = dict[str, Content](), ""
    for kind, member in zip(kinds, members, strict=True):
        start = member[0] - span.start
        data = tile[kind] = span.data[start : start + member[1]]
        fault = fault or member_fault(kind, data, member)
    return tile, fault


def _runs(samples: Iterable[int], size: int) -> Iterator[list[int]]:
    """Cut ascending samples of one shard, of about ``size`` bytes each, into groups that one request reads."""
    run: list[int] = []
    for sample in samples:
        if run and ((sample - run[-1] - 1) * size > MAX_GAP or (sample - run[0] + 1) * size > MAX_RANGE):
            yield run
            run = []
        run.append(sample)
    if run:
        yield run
