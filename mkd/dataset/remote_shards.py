"""Reads members of tiles from shards in an object store: ranges of neighbours, prefetched, or whole copies."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from mkd.dataset.index import DatasetIndex
from mkd.dataset.prefetch import Prefetcher, Span
from mkd.dataset.record_cache import RecordCache
from mkd.dataset.shard_cache import ShardCache
from mkd.dataset.shard_list import shard_place, shard_url
from mkd.dataset.shard_record import Content, Member, Members, TileRecord, member_fault
from mkd.storage.folder import Folder

MAX_GAP = 256 << 10  # bytes that are read and thrown away rather than asking a server twice
MAX_RANGE = 8 << 20  # bytes of one request

log = logging.getLogger(__name__)


class RemoteShards:
    """Shards of which some lie behind a URL; used by one thread, which the prefetcher's threads read for.

    Args:
        folder: of the data set.
        index: its index.
        records: of its tiles; the prefetcher's threads look up offsets in them too.
        cache: local folder for whole copies of shards; None reads the ranges that are needed.
        cache_bytes: size that the cache may reach.

    Raises:
        ValueError: a cache folder that cannot be made.
    """

    def __init__(
        self, folder: Folder, index: DatasetIndex, records: RecordCache, cache: Path | None, cache_bytes: int
    ) -> None:
        self._folder, self._index, self._records = folder, index, records
        self._cache = None if cache is None else ShardCache(cache, cache_bytes)
        self._prefetcher = Prefetcher(self._fetch)

    def prefetch(self, samples: Sequence[int]) -> None:
        """Begin to read tiles, neighbours by one request, in the order in which the first of each is needed."""
        first_use = {sample: place for place, sample in reversed(list(enumerate(samples)))}
        runs: list[list[int]] = []
        for shard, group in groupby(sorted(samples), key=lambda sample: self._records.locate(sample)[0]):
            runs += _runs(group, self._mean_tile_bytes(shard))
        for run in sorted(runs, key=lambda run: min(first_use[sample] for sample in run)):
            shard, _ = self._records.locate(run[0])
            self._prefetcher.request(run, self._mean_tile_bytes(shard))

    def read(self, sample: int, shard: int, record: TileRecord, kinds: Sequence[str]) -> tuple[Members, str]:
        """Return members of a tile, prefetched or read now; what arrived damaged is read once more.

        Args:
            sample: the tile's number.
            shard: of the tile.
            record: of the tile.
            kinds: extensions of the members.

        Returns:
            The members; and "" or what is wrong with the first bad one.

        Raises:
            FileNotFoundError: the shard is missing.
            ValueError: the server refuses, or does not answer.
        """
        members = [record.members[kind] for kind in kinds]
        start, stop = _bounds(members)
        # `pop` waits for the prefetching thread that is reading this tile.
        span = self._prefetcher.pop(sample) or self._read_range(shard, start, stop)
        contents, fault = _cut(span, kinds, members)
        if fault:
            file = shard_url(self._folder, self._index.shards[shard])
            log.warning("%s:%s: %s; reading it again", file, record.key, fault)
            contents, fault = _cut(self._read_again(shard, start, stop), kinds, members)
        return contents, fault

    def close(self) -> None:
        """Stop prefetching."""
        self._prefetcher.close()

    def _fetch(self, samples: Sequence[int]) -> list[Span]:
        """Read whole tiles of one shard by one request; called in the prefetcher's threads."""
        rows = [self._records.locate(sample) for sample in samples]
        bounds = [_bounds(self._records.record(*row).members.values()) for row in rows]
        shard = rows[0][0]
        whole = self._read_range(shard, min(start for start, _ in bounds), max(stop for _, stop in bounds))
        view = memoryview(whole.data)  # slices of it are no copies
        return [Span(start, view[start - whole.start : stop - whole.start]) for start, stop in bounds]

    def _read_range(self, shard: int, start: int, stop: int) -> Span:
        """Read a piece of a shard from its copy, or from the server where there is none."""
        info = self._index.shards[shard]
        place, name = shard_place(self._folder, info)
        copy = self._cache.open(self._folder, info) if self._cache is not None else None
        if copy is None:
            return Span(start, place.read(name, start, stop))
        try:
            return Span(start, os.pread(copy, stop - start, start))
        finally:
            os.close(copy)

    def _read_again(self, shard: int, start: int, stop: int) -> Span:
        """Read from the server what arrived damaged, or lies damaged in the cache."""
        info = self._index.shards[shard]
        if self._cache is not None:
            self._cache.drop(info)
        place, name = shard_place(self._folder, info)
        return Span(start, place.read(name, start, stop))

    def _mean_tile_bytes(self, shard: int) -> int:
        info = self._index.shards[shard]
        return info.bytes // info.samples


def _bounds(members: Collection[Member]) -> tuple[int, int]:
    """Return where the first of some members begins and the last one ends."""
    offset, size, _ = max(members)  # by offset
    return min(members)[0], offset + size


def _cut(span: Span, kinds: Sequence[str], members: Sequence[Member]) -> tuple[Members, str]:
    """Cut members out of a piece of their shard; "" or what is wrong with the first bad one."""
    contents, fault = dict[str, Content](), ""
    for kind, member in zip(kinds, members, strict=True):
        start = member[0] - span.start
        content = contents[kind] = span.data[start : start + member[1]]
        fault = fault or member_fault(kind, content, member)
    return contents, fault


def _runs(samples: Iterable[int], tile_bytes: int) -> Iterator[list[int]]:
    """Cut ascending samples of one shard, of about ``tile_bytes`` each, into groups that one request reads."""
    run: list[int] = []
    for sample in samples:
        gap, length = sample - run[-1] - 1 if run else 0, sample - run[0] + 1 if run else 1
        if run and (gap * tile_bytes > MAX_GAP or length * tile_bytes > MAX_RANGE):
            yield run
            run = []
        run.append(sample)
    if run:
        yield run
