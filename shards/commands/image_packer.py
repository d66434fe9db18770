"""Packing the images of one shard, with their masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mkd.geo.picture_header import picture_orientation
from mkd.image_header import BYTES_A_PIXEL
from mkd.storage.folder import Folder
from shards.inputs.class_file import ClassFile
from shards.inputs.encode import EncodedTile, encode_tile
from shards.inputs.image_list import ImageItem
from shards.inputs.images.image_file import pack_image
from shards.inputs.images.image_place import tiff_place
from shards.inputs.mask_file import class_ids, read_mask
from shards.output.shard_writer import ShardWriter
from shards.output.unknown_values import list_unknown

_READERS = 8  # files read at the same time from a remote folder
_Contents = tuple[bytes, bytes | None]  # of image and mask


@dataclass(frozen=True)
class ImagePacker:
    """Packs the images of one shard."""

    source: str
    classfile: ClassFile
    check: str
    max_pixels: int
    bands: Sequence[int] | None = None

    def __call__(self, items: Sequence[ImageItem], shard: ShardWriter) -> None:
        """Add images with their masks to a shard; list those that are bad."""
        for item, contents in _read_items(Folder(self.source), items, self.max_pixels):
            if isinstance(contents, OSError):
                name, reason = str(contents.filename or item.image), contents.strerror or str(contents)
                advice = "check the disk or the mount, or copy the file again"
                text = f"cannot be read ({reason}): {advice}"
                shard.quarantine(name, text, labelled=item.mask is not None, unread=True)
                continue
            if isinstance(contents, ValueError):
                shard.quarantine(item.image, str(contents), labelled=item.mask is not None)
                continue
            image, mask = contents
            tile = self._tile(item, image, mask, shard)
            if tile is not None:
                shard.add(tile)
                shard.left_out("no_label", int(mask is not None and tile.label is None))

    def _tile(
        self, item: ImageItem, image: bytes, mask: bytes | None, shard: ShardWriter
    ) -> EncodedTile | None:
        """Make a tile; None when it is bad, and then listed in the shard's quarantine."""
        try:
            member, valid = pack_image(image, item.image, self.check, self.bands, self.max_pixels)
        except ValueError as error:
            shard.quarantine(item.image, str(error), labelled=mask is not None)
            return None
        ids, turned = None, picture_orientation(image, item.image) != 1
        if mask is not None:
            ids = self._ids(item, mask, member.size, turned, shard)
            if ids is None:
                return None
        shard.left_out("converted", int(member.converted and member.extension == "png" and not turned))
        if turned:
            shard.left_out("turned")
        if member.extension == "tif":
            shard.left_out("stored_as_tif")
        if member.alpha:
            shard.left_out("alpha_left_out")
        if valid is not None:
            shard.left_out("missing")
        place = tiff_place(image)
        if place.controlled:
            shard.left_out("control_points")
        meta = {
            "source": item.name,
            "window": None,
            "size": list(member.size),
            "crs": place.crs,
            "transform": place.transform,
        }
        kind: dict[str, Any] = {"bands": member.bands, "dtype": member.dtype, "valid": valid}
        return encode_tile(item.key, member.data, member.extension, ids, meta, **kind)

    def _ids(
        self, item: ImageItem, mask: bytes, size: tuple[int, int], turned: bool, shard: ShardWriter
    ) -> NDArray[np.uint8] | None:
        name = str(item.mask)
        try:
            found = read_mask(mask, name, self.classfile, self.max_pixels)
        except ValueError as error:
            shard.quarantine(name, str(error), labelled=True)
            return None
        ids = found.ids
        if found.unknown:
            reason = f"unknown mask values: {list_unknown(found.unknown)}"
            shard.quarantine(name, reason, True, found.unknown, classes=class_ids(ids))
        elif ids.shape != size:
            upright = " (upright, as its EXIF orientation says)" if turned else ""
            reason = (
                f"mask {name} is {ids.shape[0]} x {ids.shape[1]} pixels (height x width), its image {item.image} "
                f"{size[0]} x {size[1]}{upright}: they must be equal"
            )
            shard.quarantine(name, reason, labelled=True)
        else:
            if found.coding:
                shard.left_out("lossy_masks")
            if found.assigned:
                shard.left_out("assigned_pixels", found.assigned)
            if found.missing:
                shard.left_out("masks_with_holes")
            return ids
        return None


def _read_items(
    folder: Folder, items: Sequence[ImageItem], max_pixels: int
) -> Iterator[tuple[ImageItem, _Contents | OSError | ValueError]]:
    """Yield image and mask of each item, or the error; a remote folder is read by several threads."""
    most = BYTES_A_PIXEL * max_pixels + (
        64 << 20
    )  # bytes of an image without compression, and of its metadata

    def content(name: str) -> bytes:
        if folder.local is None:
            return folder.read(name)
        data = folder.read(name, 0, most + 1)
        if len(data) > most:
            raise ValueError(
                f"{folder.url_of(name)} has more than {most:,} bytes, too many for an image of --max-pixels "
                f"{max_pixels}: cut it into tiles with `shards tile`, or raise --max-pixels"
            )
        return data

    def read(item: ImageItem) -> tuple[ImageItem, _Contents | OSError | ValueError]:
        try:
            mask = None if item.mask is None else content(item.mask)
            return item, (content(item.image), mask)
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and folder.local is None:  # a place that refuses ends the build
                raise
            return item, error

    if folder.local is not None:
        yield from map(read, items)
        return
    # Threads wait for the network in place of the worker; map keeps the items' order, and so the shard's bytes.
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(items), 4 * _READERS):  # not a whole shard in memory
            yield from pool.map(read, items[start : start + 4 * _READERS])
