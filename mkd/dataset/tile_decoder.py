"""Decodes tiles of a data set into given arrays, and replaces those that cannot be read; no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mkd.dataset.codec import LABEL, VALID, decode_image, decode_label, image_kind
from mkd.dataset.index import DatasetIndex
from mkd.dataset.shard_list import shard_url
from mkd.dataset.shard_record import Content
from mkd.dataset.tile_source import DamagedTile, TileRequest, TileSource
from mkd.labels import IGNORE
from mkd.storage.folder import Folder

READ_GROUP = 16  # tiles that are read before they are decoded: they stay in the processor's cache

Size = tuple[int, int]  # height and width in pixels
# Flat arrays of bytes: image, label, and in a data set with missing pixels where there is data: `BufferLayout.slot`.
TilePixels = tuple[NDArray[np.uint8], ...]


class BadTile(NamedTuple):
    """A tile that cannot be used: one sentence that names shard and key, and the sample that replaces it."""

    reason: str
    replaced_by: int


@dataclass(frozen=True)
class DatasetSpec:
    """What a process needs to open a data set: it is pickled to the decoding processes, and each opens its own.

    Attributes:
        folder: path or URL.
        index: of the data set.
        labelled: decode labels too.
        cache: folder for copies of remote shards; None reads the ranges that are needed.
        cache_bytes: size that the cache may reach.
    """

    folder: str
    index: DatasetIndex
    labelled: bool
    cache: Path | None = None
    cache_bytes: int = 0

    def open_decoder(self) -> TileDecoder:
        """Return a decoder for this process."""
        source = TileSource(Folder(self.folder), self.index, self.cache, self.cache_bytes)
        return TileDecoder(source, self.index, self.labelled)


class _Member(NamedTuple):
    """An encoded member, and the pixels to decode it into; `place` is the tile's in the answer."""

    place: int
    request: TileRequest
    kind: str
    content: Content
    out: NDArray[Any]


class TileDecoder:
    """Decodes tiles by sample number into flat arrays; used by one thread.

    Args:
        source: reads the encoded members.
        index: of the data set.
        labelled: decode labels too.
    """

    def __init__(self, source: TileSource, index: DatasetIndex, labelled: bool) -> None:
        self.source, self.index, self.labelled = source, index, labelled
        self._dtype = np.dtype(index.dtype)
        # One object for all tiles of a size: pickle then sends it once in an answer.
        self._sizes: dict[Size, Size] = {}

    def decode(self, sample: int, out: TilePixels) -> Size:
        """Decode one tile.

        Args:
            sample: 0 <= sample < samples of the data set.
            out: flat arrays, as large as the index's largest tile; overwritten.

        Returns:
            H and W in pixels.

        Raises:
            DamagedTile: it cannot be read or decoded.
        """
        result = self._decode_group([sample], [out])[0]
        if isinstance(result, DamagedTile):
            raise result
        return result

    def decode_all(
        self, samples: Sequence[int], outs: Sequence[TilePixels]
    ) -> list[tuple[Size, BadTile | None]]:
        """Decode some tiles, with the next readable tile of the shard in place of each damaged one.

        Args:
            samples: 0 <= sample < samples of the data set.
            outs: flat arrays for each, see `decode`.

        Returns:
            For each of them H and W in pixels, and the damaged tile where it was replaced.

        Raises:
            DamagedTile: no tile of a shard can be read.
        """
        done: list[tuple[Size, BadTile | None]] = []
        for first in range(0, len(samples), READ_GROUP):
            group, places = samples[first : first + READ_GROUP], outs[first : first + READ_GROUP]
            for sample, out, result in zip(group, places, self._decode_group(group, places), strict=True):
                if isinstance(result, DamagedTile):
                    done.append(self._replace(sample, out, result))
                else:
                    done.append((result, None))
        return done

    def _decode_group(self, samples: Sequence[int], outs: Sequence[TilePixels]) -> list[Size | DamagedTile]:
        """Look up, read and decode tiles, one stage after the other: each finds its code in the processor's cache."""
        # 1. Look up the members; 2. read them.
        requests = [self._request(sample) for sample in samples]
        tiles = self.source.read_all(requests)
        # 3. Pair each member with the pixels that it becomes.
        results: list[Size | DamagedTile] = []
        members: list[_Member] = []
        for request, tile, out in zip(requests, tiles, outs, strict=True):
            if not isinstance(tile, dict):
                results.append(tile)
                continue
            assert isinstance(request, TileRequest), "only requested tiles are read"
            (height, width), kind = request.record.size, request.kinds[0]
            area, place = height * width, len(results)
            if self.labelled:  # first, so that of two faults the image's is reported
                ids = out[1][:area].reshape(height, width)
                members.append(_Member(place, request, LABEL, tile[LABEL], ids))
            if len(out) > 2:
                valid = out[2][:area].reshape(height, width)
                valid[...] = 255  # of tiles that hold data everywhere
                if VALID in tile:
                    members.append(_Member(place, request, VALID, tile[VALID], valid))
            size = self._dtype.itemsize * self.index.bands * area
            pixels = out[0][:size].view(self._dtype).reshape(height, width, self.index.bands)
            members.append(_Member(place, request, kind, tile[kind], pixels))
            results.append(self._sizes.setdefault(request.record.size, request.record.size))
        # 4. Decode.
        for place, request, kind, content, pixels in members:
            try:
                if kind in (LABEL, VALID):
                    decode_label(content, pixels, self.index.labels if kind == LABEL else None)
                    if kind == LABEL:
                        self._check_ids(pixels)
                else:
                    decode_image(content, kind, pixels)
            except ValueError as error:
                what = {LABEL: "label", VALID: "mask of missing pixels"}.get(kind, "image")
                fault = f"the {what} cannot be decoded ({error})"
                results[place] = self._damaged_tile(request.shard, request.record.key, fault)
        return results

    def _check_ids(self, ids: NDArray[np.uint8]) -> None:
        """Refuse label ids beyond the classes: a loss would take memory for them that is not there.

        Raises:
            ValueError: such an id.
        """
        beyond = (ids >= self.index.num_classes) & (ids != IGNORE)
        if beyond.any():
            raise ValueError(
                f"it has the id {int(ids[beyond].max())}, allowed are 0..{self.index.num_classes - 1} and {IGNORE}"
            )

    def _request(self, sample: int) -> TileRequest | DamagedTile:
        """Choose the members of a tile that are needed."""
        shard, record = self.source.find(sample)
        height, width = record.size
        kind = image_kind(record.members)
        if not kind or (self.labelled and LABEL not in record.members):
            fault = f"holds {sorted(record.members)}; an image and its label are needed"
        elif height > self.index.largest[0] or width > self.index.largest[1]:
            limit = "{} x {}".format(*self.index.largest)
            fault = f"is {height} x {width}, but the index says at most {limit}"
        else:
            others = [LABEL] if self.labelled else []
            others += [VALID] if self.index.missing_pixels and VALID in record.members else []
            return TileRequest(sample, shard, record, (kind, *others))
        return self._damaged_tile(shard, record.key, fault)

    def _replace(self, sample: int, out: TilePixels, damage: DamagedTile) -> tuple[Size, BadTile]:
        """Decode another tile of the shard.

        Raises:
            DamagedTile: none of them can be read.
        """
        for other in self._other_samples(sample):
            try:
                return self.decode(other, out), BadTile(str(damage), other)
            except DamagedTile:
                continue
        raise DamagedTile(f"{damage}; nor can any other tile of its shard")

    def _other_samples(self, sample: int) -> Iterator[int]:
        """Yield the other samples of a shard, from the next one to its end, then from its beginning."""
        shard, row = self.source.locate(sample)
        start = sample - row
        end = start + self.index.shards[shard].samples
        yield from range(sample + 1, end)
        yield from range(start, sample)

    def _damaged_tile(self, shard: int, key: str, fault: str) -> DamagedTile:
        file = shard_url(self.source.folder, self.index.shards[shard])
        return DamagedTile(f"{file}:{key}: {fault}; run 'python -m shards verify {self.source.folder}'")
