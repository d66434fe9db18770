"""Single tiles of a data set, read without the rest of their shard, as pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mkd.dataset.codec import image_kind
from mkd.dataset.index import DatasetIndex, ShardInfo
from mkd.dataset.shard_list import shard_place, shard_url
from mkd.dataset.shard_record import (
    ShardRecord,
    TileRecord,
    adopted_meta,
    member_fault,
    read_matching_record,
)
from mkd.geo.band_choice import shown_bands
from mkd.geo.palette import screen_values
from mkd.image_header import MAX_PIXELS
from mkd.label_coding import LabelCoding
from mkd.storage.folder import Folder
from shards.reading.pixels import image_pixels, label_pixels
from shards.reading.shard_reader import meta_of


class TileImage(NamedTuple):
    """A decoded tile: key, image (H, W, C) as stored, label (H, W) uint8 or None, and what its KEY.json says."""

    key: str
    image: NDArray[Any]
    label: NDArray[np.uint8] | None
    meta: Mapping[str, Any] = MappingProxyType({})


def read_tile(
    place: Folder,
    shard: ShardInfo,
    tile: TileRecord,
    max_pixels: int = MAX_PIXELS,
    coding: LabelCoding | None = None,
) -> TileImage:
    """Read and decode one tile.

    Args:
        place: the data set.
        shard: the tile's.
        tile: what the shard's record says of the tile.
        max_pixels: larger tiles are refused before they are decoded.
        coding: `labels` of the index.

    Raises:
        ValueError: a damaged tile, naming shard and key.
    """
    members, name = _read_members(place, shard, tile), f"{shard_url(place, shard)}, {tile.key}"
    kind = image_kind(members)
    if not kind:
        raise ValueError(f"{name} holds {sorted(members)}, no jpg, png or tif: build the shard again")
    label = members.get("label.png")
    ids = None if label is None else label_pixels(label, f"{name}.label.png", max_pixels, coding)
    image = image_pixels(members[kind], kind, f"{name}.{kind}", max_pixels)
    if shard.url:
        members.setdefault("json", adopted_meta(tile))
    return TileImage(tile.key, image, ids, meta_of(tile.key, members, shard_url(place, shard)))


def read_samples(
    place: Folder, index: DatasetIndex, samples: Sequence[int], max_pixels: int = MAX_PIXELS
) -> Iterator[TileImage]:
    """Yield tiles by their numbers in the data set, in the order given; ascending numbers read each record once.

    Raises:
        ValueError: a damaged tile, see `read_tile`.
    """
    ends = list(accumulate(index.shards.samples))
    record: ShardRecord | None = None
    for sample in samples:
        number = int(np.searchsorted(ends, sample, side="right"))
        info = index.shards[number]
        if record is None or record.info != info:
            record = read_matching_record(place, info)
        yield read_tile(place, info, record.tiles[sample - ends[number]], max_pixels, index.labels)


def stretch_to_rgb8(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Make three bands of 8 bits of any image, see `shown_bands` and `screen_values`; fewer than three are grey."""
    colours = image[..., list(shown_bands((), image.shape[2]))]
    return screen_values(colours, eight_bits=image.dtype == np.uint8)


def _read_members(place: Folder, shard: ShardInfo, tile: TileRecord) -> dict[str, bytes]:
    read, (folder, file) = {}, shard_place(place, shard)
    for kind, member in tile.members.items():
        data = read[kind] = folder.read(file, member.offset, member.offset + member.size)
        if fault := member_fault(kind, data, member):
            raise ValueError(
                f"{shard_url(place, shard)}, {tile.key}: {fault}; "
                f"run 'python -m shards verify {place}', copy the shard again or build it again"
            )
    return read
