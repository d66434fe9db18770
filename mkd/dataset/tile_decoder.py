"""Tiles of a data set as pixels in given places: read, decoded, and replaced when they cannot be; no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mkd.dataset.codec import LABEL, decode_image, decode_label, image_kind
from mkd.dataset.index import DatasetIndex
from mkd.dataset.tile_source import Content, DamagedTile, TileRequest, TileSource
from mkd.storage.folder import Folder

READ_GROUP = 16  # tiles that are read before they are decoded: they stay in the processor's cache

Size = tuple[int, int]
TilePixels = tuple[
    NDArray[np.uint8], NDArray[np.uint8]
]  # flat places of image and label, from `BufferLayout.slot`
_Work = tuple[
    int, TileRequest, str, Content, NDArray[np.uint8]
]  # place in the answer, tile, member, content, where to


class BadTile(NamedTuple):
    """A tile that cannot be used: one sentence that names shard and key, and the sample taken in its place."""

    reason: str
    replaced_by: int


@dataclass(frozen=True)
class DatasetSpec:
    """A data set to be read: what `TileSource` needs, and whether labels are wanted; any process can open it."""

    folder: str
    index: DatasetIndex
    labelled: bool
    cache: Path | None = None
    cache_bytes: int = 0

    def open_decoder(self) -> TileDecoder:
        """Open it in this process."""
        source = TileSource(Folder(self.folder), self.index, self.cache, self.cache_bytes)
        return TileDecoder(source, self.index, self.labelled)


class TileDecoder:
    """Decodes tiles by sample number into flat arrays.

    Args:
        source: the members.
        index: of the data set.
        labelled: also labels; without it they are left alone.
    """

    def __init__(self, source: TileSource, index: DatasetIndex, labelled: bool) -> None:
        self.source, self.index, self.labelled = source, index, labelled
        self._sizes: dict[Size, Size] = {}  # one object for all tiles of a size: they travel as one

    def fill(self, sample: int, slot: TilePixels) -> Size:
        """Decode one tile.

        Args:
            sample: 0 <= sample < samples of the data set.
            slot: where to; see `BufferLayout.slot`.

        Returns:
            H and W in pixels.

        Raises:
            Damaged: it cannot be read or decoded.
        """
        found = self._decode([sample], [slot])[0]
        if isinstance(found, DamagedTile):
            raise found
        return found

    def fill_all(
        self, samples: Sequence[int], slots: Sequence[TilePixels]
    ) -> list[tuple[Size, BadTile | None]]:
        """Decode some tiles, with the next readable tile of the shard in the place of each damaged one.

        Args:
            samples: 0 <= sample < samples of the data set.
            slots: where to.

        Returns:
            For each of them H and W in pixels, and what was lost.

        Raises:
            Damaged: no tile of a shard can be read.
        """
        done: list[tuple[Size, BadTile | None]] = []
        for first in range(0, len(samples), READ_GROUP):
            some, places = samples[first : first + READ_GROUP], slots[first : first + READ_GROUP]
            for sample, slot, found in zip(some, places, self._decode(some, places), strict=True):
                done.append(
                    self._replace(sample, slot, found) if isinstance(found, DamagedTile) else (found, None)
                )
        return done

    def _decode(self, samples: Sequence[int], slots: Sequence[TilePixels]) -> list[Size | DamagedTile]:
        """Prepare and read all tiles, then decode them: each of the three finds its code in the processor's cache."""
        asked = [self._request(sample) for sample in samples]
        found: list[Size | DamagedTile] = []
        work: list[_Work] = []
        for each, tile, (image, label) in zip(asked, self.source.read_all(asked), slots, strict=True):
            if not isinstance(tile, dict):
                found.append(tile)
                continue
            assert isinstance(each, TileRequest), "what was not asked for is not read"
            (height, width), kind = each.record.size, each.kinds[0]
            area, place = height * width, len(found)
            if self.labelled:  # first, so that of two faults the image's is told
                work.append((place, each, LABEL, tile[LABEL], label[:area].reshape(height, width)))
            work.append((place, each, kind, tile[kind], image[: 3 * area].reshape(height, width, 3)))
            found.append(self._sizes.setdefault(each.record.size, each.record.size))
        for place, each, kind, data, out in work:
            try:
                if kind == LABEL:
                    decode_label(data, out)
                else:
                    decode_image(data, kind, out)
            except ValueError as error:
                what = f"the {'label' if kind == LABEL else 'image'} cannot be decoded ({error})"
                found[place] = self._damaged(each.shard, each.record.key, what)
        return found

    def _request(self, sample: int) -> TileRequest | DamagedTile:
        """Choose the members of a tile that are needed."""
        shard, entry = self.source.find(sample)
        height, width = entry.size
        kind = image_kind(entry.members)
        if not kind or (self.labelled and LABEL not in entry.members):
            what = f"holds {sorted(entry.members)}; an image and its label are needed"
        elif height > self.index.largest[0] or width > self.index.largest[1]:
            limit = "{} x {}".format(*self.index.largest)
            what = f"is {height} x {width}, but the index says at most {limit}"
        else:
            return TileRequest(sample, shard, entry, (kind, LABEL) if self.labelled else (kind,))
        return self._damaged(shard, entry.key, what)

    def _replace(self, sample: int, slot: TilePixels, damage: DamagedTile) -> tuple[Size, BadTile]:
        """Decode another tile of the shard.

        Raises:
            Damaged: there is none that can be read.
        """
        for other in self._other_samples(sample):
            try:
                return self.fill(other, slot), BadTile(str(damage), other)
            except DamagedTile:
                continue
        raise DamagedTile(f"{damage}; nor can any other tile of its shard")

    def _other_samples(self, sample: int) -> Iterator[int]:
        """Yield the other samples of a shard, from the next one on and round to its beginning."""
        shard, row = self.source.locate(sample)
        start = sample - row
        end = start + self.index.shards[shard].samples
        yield from range(sample + 1, end)
        yield from range(start, sample)

    def _damaged(self, shard: int, key: str, what: str) -> DamagedTile:
        place = self.source.folder.url_of(self.index.shards[shard].file)
        return DamagedTile(f"{place}:{key}: {what}; run 'shards verify {self.source.folder}'")
