"""Writing a data set: tars written aside with fixed metadata, then renamed, the index last."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from mkd.data.index import INDEX_NAME, DatasetIndex, ShardInfo, write_index
from shards.classfile import IGNORE, Colour
from shards.encode import Tile
from shards.inputs import file_sha256

_OURS = re.compile(r"\.tmp-.*|.+-\d{6}\.tar")


class ShardWriter:
    """Collects tiles into shards; nothing is visible before `commit`, nothing counts before `finish`.

    Leaving the `with` statement without `finish` removes what was written. The same tiles in the same order
    give the same bytes.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        name: str,
        classes: Sequence[str],
        palette: Sequence[Colour],
        shard_size: int = 256,
    ) -> None:
        """Open a folder for writing.

        Args:
            folder: made when missing; may hold left-overs of an interrupted run, and nothing else.
            name: data set name; shards are NAME-000000.tar, ...
            classes: class names.
            palette: one (r, g, b) a class.
            shard_size: tiles a shard, >= 1.

        Raises:
            ValueError: a folder with other files in it, or a name or size that cannot be.
        """
        if shard_size < 1:
            raise ValueError(f"shard size {shard_size}: a shard needs at least 1 tile")
        if not re.fullmatch(r"[\w.+-]*\w", name) or name.startswith("."):
            raise ValueError(f"data set name {name!r}: use letters, digits, '_', '-', '+' and '.' only")
        self.folder = Path(folder)
        self._name, self._size = name, shard_size
        self._classes, self._palette = tuple(classes), tuple(palette)
        self._counts = np.zeros(256, np.int64)
        self._keys: set[str] = set()
        self._tar: tarfile.TarFile | None = None
        self._tiles = self._labelled = 0  # of the shard being written
        self._shards: list[ShardInfo] = []
        self._committed = self._finished = False
        self._clean_start()

    def __enter__(self) -> ShardWriter:
        """Return the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was written, unless it was finished."""
        if not self._finished:
            if self._tar is not None:
                with suppress(OSError):  # the disk may be full; the file is removed in any case
                    self._tar.close()
            for shard in self._shards:
                (self.folder / shard.file).unlink(missing_ok=True)
            self._remove_aside()

    @property
    def samples(self) -> int:
        """Tiles added so far."""
        return len(self._keys)

    def add(self, tile: Tile) -> None:
        """Append a tile.

        Args:
            tile: its key must be new; label ids below the number of classes, or 255.

        Raises:
            ValueError: a key that is there already.
            OSError: a full disk, with the path.
        """
        if tile.key in self._keys:
            raise ValueError(f"key {tile.key} occurs twice in {self.folder}: give the files different names")
        self._keys.add(tile.key)
        if tile.counts is not None:
            assert not tile.counts[len(self._classes) : IGNORE].any(), (
                "ids are checked before they are packed"
            )
            self._counts += tile.counts
        with _naming(self.folder):
            if self._tar is None:
                aside = self._aside(self._file())
                self._tar = tarfile.TarFile(aside, "w", format=tarfile.PAX_FORMAT)
            for name, data in members(tile):
                self._tar.addfile(_header(name, len(data)), io.BytesIO(data))
            self._tiles += 1
            self._labelled += tile.label is not None
            if self._tiles == self._size:
                self._close_shard()

    def commit(self) -> tuple[ShardInfo, ...]:
        """Put all shards in place (the folder is no data set yet) and describe them."""
        if not self._committed:
            if self._tiles:
                with _naming(self.folder):
                    self._close_shard()
            kept = {shard.file for shard in self._shards}
            for old in self.folder.glob("*.tar"):  # of an interrupted run: a data set has an index
                if old.name not in kept and not old.name.startswith("."):
                    old.unlink()
            for shard in self._shards:
                os.replace(self._aside(shard.file), self.folder / shard.file)
            self._committed = True
        return tuple(self._shards)

    def finish(self, provenance: Mapping[str, Any]) -> DatasetIndex:
        """Commit, and write the index.

        Args:
            provenance: command, source, split: anything JSON holds.

        Returns:
            The index as written.
        """
        shards = self.commit()
        index = DatasetIndex(
            name=self._name,
            classes=self._classes,
            palette=self._palette,
            samples=sum(shard.samples for shard in shards),
            labelled=sum(shard.labelled for shard in shards),
            bytes=sum(shard.bytes for shard in shards),
            histogram=tuple(int(count) for count in self._counts[: len(self._classes)]),
            ignored_pixels=int(self._counts[IGNORE]),
            shards=shards,
            provenance=dict(provenance),
        )
        with _naming(self.folder / INDEX_NAME):
            write_index(self.folder, index)
        self._finished = True
        return index

    def _close_shard(self) -> None:
        assert self._tar is not None, "a shard is open while it has tiles"
        file = self._file()
        self._tar.close()
        with open(self._aside(file), "rb+") as stream:
            os.fsync(stream.fileno())
        size = self._aside(file).stat().st_size
        digest = file_sha256(self._aside(file))
        self._shards.append(ShardInfo(file, self._tiles, self._labelled, size, digest))
        self._tar, self._tiles, self._labelled = None, 0, 0

    def _file(self) -> str:
        return f"{self._name}-{len(self._shards):06d}.tar"

    def _aside(self, file: str) -> Path:
        return self.folder / f".tmp-{file}"

    def _remove_aside(self) -> None:
        for old in self.folder.glob(".tmp-*"):
            old.unlink()

    def _clean_start(self) -> None:
        with _naming(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        others = sorted(path.name for path in self.folder.iterdir() if not _OURS.fullmatch(path.name))
        if others:
            raise ValueError(
                f"{self.folder} holds other files ({', '.join(others[:3])}): choose an empty folder"
            )
        self._remove_aside()


def members(tile: Tile) -> Iterator[tuple[str, bytes]]:
    """Give a tile's members in their fixed order: image, label where there is one, KEY.json."""
    yield f"{tile.key}.{tile.extension}", tile.image
    if tile.label is not None:
        yield f"{tile.key}.label.png", tile.label
    meta = {**tile.meta, "labelled": tile.label is not None}
    yield f"{tile.key}.json", json.dumps(meta, sort_keys=True, ensure_ascii=False).encode()


def _header(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, 0, 0o644
    return info


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Give errors of the file system the path they belong to: a full disk tells none of itself."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
