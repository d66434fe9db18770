"""Reads the encoded members of tiles by sample number, from local or remote shards; no decoding, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mkd.dataset.index import DatasetIndex
from mkd.dataset.local_shards import LocalShards
from mkd.dataset.record_cache import RecordCache
from mkd.dataset.remote_shards import RemoteShards
from mkd.dataset.shard_list import shard_url
from mkd.dataset.shard_record import Member, Members, TileRecord, adopted_meta
from mkd.storage.folder import Folder


class DamagedTile(ValueError):
    """A tile that cannot be read: one sentence that names shard and key, and says what to do."""


class TileRequest(NamedTuple):
    """Members of a tile to be read.

    Attributes:
        sample: number of the tile in the data set.
        shard: number of its shard.
        record: what the shard's record says of it.
        kinds: extensions of the wanted members.
    """

    sample: int
    shard: int
    record: TileRecord
    kinds: Sequence[str]


class TileSource:
    """Reads members of tiles; length and CRC-32 of each are checked against the shard's record.

    Shards and records are opened when first needed only. One thread may use a source; each process makes its own
    (unpickling opens it again).

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
        self._records = RecordCache(folder, index)
        self._shards: LocalShards | RemoteShards
        if folder.local is not None and not index.shards.any_remote:
            self._shards = LocalShards(folder.local, index)
        else:
            self._shards = RemoteShards(folder, index, self._records, cache, cache_bytes)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as arguments: each process has files and threads of its own."""
        return TileSource, self._arguments

    def locate(self, sample: int) -> tuple[int, int]:
        """Return the shard that holds a sample, and its row there."""
        return self._records.locate(sample)

    def find(self, sample: int) -> tuple[int, TileRecord]:
        """Return the shard of a tile, and key, (height, width) and members from the shard's record.

        Raises:
            ValueError: the record is missing, damaged or of another data set.
        """
        shard, row = self._records.locate(sample)
        return shard, self._records.record(shard, row)

    def record(self, sample: int) -> TileRecord:
        """Return key, (height, width) and members of a tile, each a `Member`; see `find`."""
        key, size, members = self.find(sample)[1]
        return TileRecord(key, size, {kind: Member(*member) for kind, member in members.items()})

    def read(self, sample: int, kinds: Sequence[str]) -> dict[str, bytes]:
        """Read members of one tile.

        Args:
            sample: 0 <= sample < samples of the data set.
            kinds: extensions, such as "jpg" and "label.png"; the "json" of an adopted tile is made up.

        Returns:
            The members' bytes by extension.

        Raises:
            DamagedTile: a member is missing, cut short or changed; remote ones were read twice.
            ValueError: no record, or a server that refuses or does not answer.
        """
        shard, record = self.find(sample)
        made: dict[str, bytes] = {}
        if "json" in kinds and "json" not in record.members and self.index.shards[shard].url:
            made, kinds = {"json": adopted_meta(record)}, [kind for kind in kinds if kind != "json"]
        if not kinds:
            return made
        missing = [kind for kind in kinds if kind not in record.members]
        if missing:
            raise self._damaged_tile(shard, record.key, f"holds {sorted(record.members)}, no {missing[0]!r}")
        (members,) = self.read_all([TileRequest(sample, shard, record, kinds)])
        if isinstance(members, DamagedTile):
            raise members
        return made | {kind: bytes(content) for kind, content in members.items()}

    def read_all(self, requests: Sequence[TileRequest | DamagedTile]) -> list[Members | DamagedTile]:
        """Read members of some tiles.

        Args:
            requests: the tiles; one that is known to be damaged is passed on.

        Returns:
            For each tile its members, valid until the next call, or why it cannot be read.

        Raises:
            ValueError: a server that refuses or does not answer.
        """
        if isinstance(self._shards, LocalShards):
            self._shards.reuse_buffer()
        return [each if isinstance(each, DamagedTile) else self._read_tile(each) for each in requests]

    def prefetch(self, samples: Sequence[int]) -> None:
        """Begin to read remote tiles that `read` is asked for soon; local ones are read when needed."""
        if isinstance(self._shards, RemoteShards):
            self._shards.prefetch(samples)

    def close(self) -> None:
        """Close files and stop prefetching."""
        self._shards.close()

    def _damaged_tile(self, shard: int, key: str, fault: str) -> DamagedTile:
        """Return the error of a tile whose shard should be copied or built again."""
        file = shard_url(self.folder, self.index.shards[shard])
        advice = f"run 'python -m shards verify {self.folder}', copy the shard again or build it again"
        return DamagedTile(f"{file}:{key}: {fault}; {advice}")

    def _read_tile(self, request: TileRequest) -> Members | DamagedTile:
        sample, shard, record, kinds = request
        try:
            if isinstance(self._shards, LocalShards):
                members, fault = self._shards.read(shard, record, kinds)
            else:
                members, fault = self._shards.read(sample, shard, record, kinds)
        except FileNotFoundError:
            fault = "the shard is missing"
        except OSError as error:
            fault = error.strerror or str(error)
        return self._damaged_tile(shard, record.key, fault) if fault else members
