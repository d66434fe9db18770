"""Tiles of a data set as pixels in given places: read, decoded, and replaced when they cannot be; no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mkd.data.decode import IMAGES, LABEL, decode_image, decode_label
from mkd.data.index import DatasetIndex
from mkd.data.source import Damaged, TileSource
from mkd.data.storage import Folder

Size = tuple[int, int]


class Lost(NamedTuple):
    """A tile that cannot be used: one sentence that names shard and key, and the sample taken in its place."""

    reason: str
    replaced_by: int


@dataclass(frozen=True)
class DataSet:
    """A data set to be read: what `TileSource` needs, and whether labels are wanted; any process can open it."""

    folder: str
    index: DatasetIndex
    labelled: bool
    cache: Path | None = None
    cache_bytes: int = 0

    def open(self) -> TileReader:
        """Open it in this process."""
        source = TileSource(Folder(self.folder), self.index, self.cache, self.cache_bytes)
        return TileReader(source, self.index, self.labelled)


class TileReader:
    """Decodes tiles by sample number into flat arrays.

    Args:
        source: the members.
        index: of the data set.
        labelled: also labels; without it they are left alone.
    """

    def __init__(self, source: TileSource, index: DatasetIndex, labelled: bool) -> None:
        self.source, self.index, self.labelled = source, index, labelled

    def fill(self, sample: int, image: NDArray[np.uint8], label: NDArray[np.uint8]) -> Size:
        """Decode one tile.

        Args:
            sample: 0 <= sample < samples of the data set.
            image: flat, at least 3HW long; its beginning becomes (H, W, 3).
            label: flat, at least HW long; its beginning becomes (H, W).

        Returns:
            H and W in pixels.

        Raises:
            Damaged: it cannot be read or decoded.
        """
        entry = self.source.entry(sample)
        height, width = entry.size
        kind = next((k for k in IMAGES if k in entry.members), "")
        if not kind or (self.labelled and LABEL not in entry.members):
            raise self._damaged(sample, f"holds {sorted(entry.members)}; an image and its label are needed")
        if height > self.index.largest[0] or width > self.index.largest[1]:
            limit = "{} x {}".format(*self.index.largest)
            raise self._damaged(sample, f"is {height} x {width}, but the index says at most {limit}")
        members = self.source.read(sample, (kind, LABEL) if self.labelled else (kind,))
        area = height * width
        part = "image"
        try:
            decode_image(members[kind], kind, image[: 3 * area].reshape(height, width, 3))
            if self.labelled:
                part = "label"
                decode_label(members[LABEL], label[:area].reshape(height, width))
        except ValueError as error:
            raise self._damaged(sample, f"the {part} cannot be decoded ({error})") from None
        return height, width

    def fill_or_next(
        self, sample: int, image: NDArray[np.uint8], label: NDArray[np.uint8]
    ) -> tuple[Size, Lost | None]:
        """Do as `fill`, with the next readable tile of the shard in the place of a damaged one.

        Raises:
            Damaged: no tile of the shard can be read.
        """
        try:
            return self.fill(sample, image, label), None
        except Damaged as error:
            reason = str(error)
        for other in self._after(sample):
            try:
                return self.fill(other, image, label), Lost(reason, other)
            except Damaged:
                continue
        raise Damaged(f"{reason}; nor can any other tile of its shard")

    def _after(self, sample: int) -> Iterator[int]:
        """Yield the other samples of a shard, from the next one on and round to its beginning."""
        shard, row = self.source.locate(sample)
        start = sample - row
        end = start + self.index.shards[shard].samples
        yield from range(sample + 1, end)
        yield from range(start, sample)

    def _damaged(self, sample: int, what: str) -> Damaged:
        shard, _ = self.source.locate(sample)
        place = self.source.folder.name(self.index.shards[shard].file)
        key = self.source.entry(sample).key
        return Damaged(f"{place}:{key}: {what}; run 'shards verify {self.source.folder}'")
