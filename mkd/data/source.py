"""The encoded members of tiles by sample number, from local or remote shards; no decoding, no torch."""

from __future__ import annotations

import logging
import os
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

from mkd.data.ahead import Ahead, Span
from mkd.data.cache import ShardCache
from mkd.data.index import DatasetIndex
from mkd.data.offsets import Offsets
from mkd.data.record import Entry, Member
from mkd.data.storage import Folder

MAX_OPEN = 64  # shard files kept open
GAP = 256 << 10  # bytes that are read and thrown away rather than asking a server twice
RANGE = 8 << 20  # bytes of one request

Data = bytes | memoryview  # a member's content

log = logging.getLogger(__name__)


class Damaged(ValueError):
    """A tile that cannot be read: one sentence that names shard and key, and says what to do."""


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
        self._ends = list(accumulate(shard.samples for shard in index.shards))
        self._offsets = Offsets(folder, index)
        self._files: dict[int, int] = {}
        remote = folder.local is None
        self._cache = ShardCache(cache, cache_bytes) if remote and cache is not None else None
        self._ahead = Ahead(self._fetch) if remote else None

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes as arguments."""
        return TileSource, self._arguments

    def entry(self, sample: int) -> Entry:
        """Return key, (height, width) and members of a tile, from its shard's record.

        Raises:
            ValueError: the record is missing, damaged or of another data set.
        """
        return self._offsets.entry(*self.locate(sample))

    def read(self, sample: int, kinds: Sequence[str]) -> dict[str, Data]:
        """Read members of a tile.

        Args:
            sample: 0 <= sample < samples of the data set.
            kinds: extensions, such as "jpg" and "label.png".

        Returns:
            The members' bytes by extension.

        Raises:
            Damaged: a member that is not there, cut short or changed; remote ones were read twice.
            ValueError: no record, or a place that refuses or does not answer.
        """
        shard, row = self.locate(sample)
        entry = self._offsets.entry(shard, row)
        lacking = [kind for kind in kinds if kind not in entry.members]
        if lacking:
            raise self._damaged(shard, entry, f"holds {sorted(entry.members)}, no {lacking[0]!r}")
        wanted = {kind: entry.members[kind] for kind in kinds}
        try:
            tile, fault = _cut(self._span(sample, shard, wanted.values()), wanted)
            if fault and self.folder.local is None:
                tile, fault = self._again(shard, entry, wanted, fault)
        except FileNotFoundError:
            fault = "the shard is missing"
        except OSError as error:
            fault = error.strerror or str(error)
        if fault:
            raise self._damaged(shard, entry, fault)
        return tile

    def prefetch(self, samples: Sequence[int]) -> None:
        """Begin to read tiles that `read` is asked for soon, neighbours at once; local ones need it not."""
        if self._ahead is None:
            return
        first = {sample: place for place, sample in reversed(list(enumerate(samples)))}
        runs: list[list[int]] = []
        for shard, group in groupby(sorted(samples), key=lambda sample: self.locate(sample)[0]):
            runs += _runs(group, self._tile_bytes(shard))
        for run in sorted(runs, key=lambda run: min(first[sample] for sample in run)):
            self._ahead.order(run, self._tile_bytes(self.locate(run[0])[0]))

    def close(self) -> None:
        """Close files and stop reading ahead."""
        while self._files:
            os.close(self._files.popitem()[1])
        if self._ahead is not None:
            self._ahead.close()

    def locate(self, sample: int) -> tuple[int, int]:
        """Return the shard that holds a sample, and its row there."""
        shard = bisect_right(self._ends, sample)
        return shard, sample - self._ends[shard] + self.index.shards[shard].samples

    def _tile_bytes(self, shard: int) -> int:
        """Return the mean size of a shard's tiles."""
        info = self.index.shards[shard]
        return info.bytes // info.samples

    def _damaged(self, shard: int, entry: Entry, fault: str) -> Damaged:
        place = self.folder.name(self.index.shards[shard].file)
        advice = f"run 'shards verify {self.folder}', copy the shard again or build it again"
        return Damaged(f"{place}:{entry.key}: {fault}; {advice}")

    def _span(self, sample: int, shard: int, members: Iterable[Member]) -> Span:
        """Return a piece of the shard with these members in it: what was read ahead, or what is read now."""
        span = self._ahead.take(sample) if self._ahead is not None else None
        return span if span is not None else self._range(shard, *_bounds(members))

    def _again(
        self, shard: int, entry: Entry, wanted: Mapping[str, Member], fault: str
    ) -> tuple[dict[str, Data], str]:
        """Read from the origin once more what came damaged over the net, or lies damaged in the cache."""
        info = self.index.shards[shard]
        log.warning("%s:%s: %s; reading it again", self.folder.name(info.file), entry.key, fault)
        if self._cache is not None:
            self._cache.drop(info)
        start, stop = _bounds(wanted.values())
        return _cut(Span(start, self.folder.read(info.file, start, stop)), wanted)

    def _fetch(self, samples: Sequence[int]) -> list[Span]:
        """Read whole tiles of one shard by one request; called in threads."""
        places = [self.locate(sample) for sample in samples]
        bounds = [_bounds(self._offsets.entry(*place).members.values()) for place in places]
        shard = places[0][0]
        whole = self._range(shard, min(start for start, _ in bounds), max(stop for _, stop in bounds))
        view = memoryview(whole.data)  # slices of it are no copies
        return [Span(start, view[start - whole.start : stop - whole.start]) for start, stop in bounds]

    def _range(self, shard: int, start: int, stop: int) -> Span:
        info = self.index.shards[shard]
        if self.folder.local is not None:
            return Span(start, os.pread(self._open(shard), stop - start, start))
        copy = self._cache.open(self.folder, info) if self._cache is not None else None
        if copy is None:
            return Span(start, self.folder.read(info.file, start, stop))
        try:
            return Span(start, os.pread(copy, stop - start, start))
        finally:
            os.close(copy)

    def _open(self, shard: int) -> int:
        """Return the descriptor of a local shard."""
        if shard not in self._files:
            if len(self._files) >= MAX_OPEN:
                os.close(self._files.pop(next(iter(self._files))))
            info = self.index.shards[shard]
            file = os.open(f"{self.folder.local}/{info.file}", os.O_RDONLY)
            self._files[shard] = file
            size = os.fstat(file).st_size
            if size != info.bytes:
                os.close(self._files.pop(shard))
                raise OSError(f"the shard has {size} bytes, the index says {info.bytes}")
        return self._files[shard]


def _bounds(members: Iterable[Member]) -> tuple[int, int]:
    """Return where the first of some members begins and the last one ends."""
    places = [(member.offset, member.offset + member.size) for member in members]
    return min(start for start, _ in places), max(stop for _, stop in places)


def _cut(span: Span, wanted: Mapping[str, Member]) -> tuple[dict[str, Data], str]:
    """Cut members out of a piece of their shard; "" or what is wrong with the first bad one."""
    tile: dict[str, Data] = {}
    for kind, member in wanted.items():
        start = member.offset - span.start
        data = tile[kind] = span.data[start : start + member.size]
        if len(data) != member.size:
            return {}, f"its {kind!r} is cut short, {len(data)} bytes of {member.size}"
        if (found := zlib.crc32(data)) != member.crc32:
            return (
                {},
                f"its {kind!r} has changed, CRC-32 {found:08x} where the record says {member.crc32:08x}",
            )
    return tile, ""


def _runs(samples: Iterable[int], size: int) -> Iterator[list[int]]:
    """Cut ascending samples of one shard, of about ``size`` bytes each, into groups that one request reads."""
    run: list[int] = []
    for sample in samples:
        if run and ((sample - run[-1] - 1) * size > GAP or (sample - run[0] + 1) * size > RANGE):
            yield run
            run = []
        run.append(sample)
    if run:
        yield run
