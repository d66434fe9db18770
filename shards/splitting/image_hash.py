"""Perceptual hashes: tiles of the same picture have nearly the same bits, however they are encoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from mkd.dataset.codec import image_kind
from mkd.dataset.index import ShardInfo
from mkd.dataset.shard_list import shard_url
from mkd.image_header import check_size
from mkd.storage.folder import Folder
from shards.reading.pixels import image_pixels
from shards.reading.shard_reader import read_groups

BITS = 128
_EDGE = 9  # pixels of the thumbnail that is hashed: 8 x 8 steps to the right, 8 x 8 steps down
_FLAT = 0.01  # of the mean: with less contrast in its thumbnail a tile shows nothing to compare
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # as JPEG weighs red, green and blue

Bytes = NDArray[np.uint8]


class HashTask(NamedTuple):
    """One shard to be hashed: URL of its folder, what the index says of it, greatest number of pixels of a tile."""

    url: str
    info: ShardInfo
    max_pixels: int


class ShardHashes(NamedTuple):
    """Hashes of a shard's tiles: its file, keys, (N, 16) bytes, and (N,) which tiles are too flat to compare."""

    file: str
    keys: list[str]
    hashes: Bytes
    flat: NDArray[np.bool_]


def hash_shard(task: HashTask) -> ShardHashes:
    """Hash all tiles of a shard.

    Raises:
        ValueError: a damaged tile, naming shard and key.
    """
    folder, file = Folder(task.url), task.info.file
    keys, hashes, flat = [], np.zeros((task.info.samples, BITS // 8), np.uint8), []
    for number, (key, group) in enumerate(read_groups(folder, task.info)):
        found = image_hash(_grey_pixels(group, f"{shard_url(folder, task.info)}, {key}", task.max_pixels))
        keys.append(key)
        flat.append(found is None)
        if found is not None:
            hashes[number] = found
    return ShardHashes(file, keys, hashes, np.array(flat, bool))


def image_hash(grey: NDArray[Any]) -> Bytes | None:
    """Hash a picture by the signs of the steps between the pixels of its thumbnail.

    Another encoding, size, brightness or contrast changes few bits; a shift, a turn or a crop changes most.

    Args:
        grey: (H, W) brightness.

    Returns:
        (16,) uint8; None when the picture is too flat.

    Source: difference hash (dHash), in both directions.
    """
    picture = Image.fromarray(np.ascontiguousarray(grey, np.float32))
    thumbnail = np.asarray(picture.resize((_EDGE, _EDGE), Image.Resampling.BOX))
    if np.ptp(thumbnail) <= _FLAT * max(float(thumbnail.mean()), 1.0):
        return None
    right, down = np.diff(thumbnail, axis=1)[:-1] > 0, np.diff(thumbnail, axis=0)[:, :-1] > 0
    return np.packbits(np.concatenate([right.ravel(), down.ravel()]))


def _grey_pixels(group: Mapping[str, bytes], name: str, max_pixels: int) -> NDArray[Any]:
    """Decode a tile's image to brightness, a JPEG at the smallest size that is enough."""
    kind = image_kind(group)
    if not kind:
        raise ValueError(f"{name} holds {sorted(group)}, no jpg, png or tif: build the shard again")
    check_size(group[kind], f"{name}.{kind}", max_pixels)
    if kind == "jpg":
        try:
            grey: NDArray[Any] = simplejpeg.decode_jpeg(
                group[kind], "GRAY", min_height=8 * _EDGE, min_width=8 * _EDGE
            )[..., 0]
            return grey
        except ValueError:
            pass  # told below, in our words
    pixels: NDArray[Any] = image_pixels(group[kind], kind, f"{name}.{kind}", max_pixels)[..., :3]
    luma: NDArray[Any] = pixels @ _LUMA[: pixels.shape[2]]
    return luma
