"""Sequential writer of a data set: tiles into one shard after the other, the index last."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any

from mkd.dataset.band_statistics import BandStatistics
from mkd.dataset.index import INDEX_NAME, DatasetIndex, ShardInfo, write_index
from mkd.labels import Colour
from mkd.storage.folder import Folder
from shards.inputs.encode import EncodedTile
from shards.output.folder_guard import prepare_folder, remove_stale_files
from shards.output.folder_lock import lock_folder
from shards.output.shard_writer import ShardWriter
from shards.output.totals import DatasetTotals
from shards.reading.band_sample import band_statistics


class DatasetWriter:
    """Collects tiles into one shard after the other; the folder is no data set before `finish`.

    Leaving the `with` statement without `finish` removes what was written. The same tiles in the same order
    give the same bytes.

    Args:
        folder: path or URL, made when missing; may hold shards of this name, left over from an interrupted run, and
            nothing else.
        name: data set name; shards are NAME-000000.tar, ...
        classes: class names.
        palette: one (r, g, b) a class.
        shard_size: tiles a shard, >= 1.
        overwrite: a data set of the same inputs lies there and is written again.

    Raises:
        ValueError: a name or size that cannot be; on entering, a folder with other files, or another job's.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | Folder,
        name: str,
        classes: Sequence[str],
        palette: Sequence[Colour],
        shard_size: int = 256,
        overwrite: bool = False,
    ) -> None:
        check_name(name, shard_size)
        self.folder = folder if isinstance(folder, Folder) else Folder(folder)
        self._name, self._size, self._again = name, shard_size, overwrite
        self._classes, self._palette = tuple(classes), tuple(palette)
        self._keys: set[str] = set()
        self._shard: ShardWriter | None = None
        self._totals = DatasetTotals()
        self._stack, self._finished = ExitStack(), False

    def __enter__(self) -> DatasetWriter:
        """Take the folder's lock and return the writer itself."""
        # Lock first, then remove: what is removed must not be another job's. After an error the lock is released.
        with ExitStack() as stack:
            if not self._again:
                prepare_folder(self.folder, self._name)
            self._lock = stack.enter_context(lock_folder(self.folder))
            if self._again:
                self.folder.remove(INDEX_NAME)
            remove_stale_files(self.folder, self._name)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was written, unless it was finished."""
        # The lock is released last; a job that lost it leaves the files to the other one.
        with self._stack:
            if not self._finished:
                if self._shard is not None:
                    self._shard.discard()
                self._lock.confirm()
                remove_stale_files(self.folder, self._name)

    @property
    def samples(self) -> int:
        """Tiles added so far."""
        return len(self._keys)

    def add(self, tile: EncodedTile) -> None:
        """Append a tile.

        Raises:
            ValueError: a key that is there already, or an image of another kind.
            OSError: a full disk, with the path.
        """
        if tile.key in self._keys:
            raise ValueError(f"key {tile.key} occurs twice in {self.folder}: give the files different names")
        self._keys.add(tile.key)
        if self._shard is None:
            file = f"{self._name}-{len(self._totals.shards):06d}.tar"
            self._shard = ShardWriter(self.folder, file, len(self._classes))
        self._shard.add(tile)
        if len(self._shard) == self._size:
            self._end_shard()

    def commit(self) -> tuple[ShardInfo, ...]:
        """Put the last shard in place (the folder is no data set yet) and describe all."""
        if self._shard is not None:
            self._end_shard()
        return tuple(self._totals.shards)

    def finish(self, provenance: Mapping[str, Any], statistics: BandStatistics | None = None) -> DatasetIndex:
        """Commit, and write the index.

        Args:
            provenance: command, source, split: anything JSON holds.
            statistics: of the bands; None counts them where the images need them.

        Returns:
            The index as written.

        Raises:
            ValueError: another job took the folder over.
        """
        self.commit()
        self._lock.confirm()
        index = self._totals.index(self._name, self._classes, self._palette, provenance)
        index = replace(index, statistics=statistics or band_statistics(self.folder, index))
        write_index(self.folder, index)
        self._finished = True
        return index

    def _end_shard(self) -> None:
        assert self._shard is not None, "a shard is open while it has tiles"
        with self._shard as shard:
            pass
        self._shard = None
        self._totals.add(shard.record)


def check_name(name: str, shard_size: int) -> None:
    """Check the name of a data set and its shard size.

    Raises:
        ValueError: naming what is allowed.
    """
    if shard_size < 1:
        raise ValueError(f"shard size {shard_size}: a shard needs at least 1 tile")
    if not re.fullmatch(r"[\w.+-]*\w", name) or name.startswith("."):
        raise ValueError(f"data set name {name!r}: use letters, digits, '_', '-', '+' and '.' only")
