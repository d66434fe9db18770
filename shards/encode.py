"""Between files, pixels and the members of a shard: checked decoding, deterministic encoding."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mkd.geo.palette import ids_from_rgb
from shards.classfile import IGNORE, ClassFile

Unknown = Mapping[int, int] | Mapping[tuple[int, int, int], int]
_CONVERTED = {"L", "LA", "1", "P", "RGBA"}  # 8-bit modes with a plain way to RGB


@dataclass(frozen=True, eq=False)
class Tile:
    """One tile as a shard holds it: encoded members, not pixels.

    Args:
        key: name without dots.
        image: JPEG or PNG file.
        extension: "jpg" or "png".
        label: PNG of uint8 ids, 255 = ignored; None = unlabelled.
        meta: KEY.json without "labelled", which follows from `label`.
        counts: (256,) int64, pixels of each label id; None when unlabelled.
    """

    key: str
    image: bytes
    extension: str
    label: bytes | None
    meta: Mapping[str, Any]
    counts: NDArray[np.int64] | None


def tile_from(
    key: str, image: bytes, extension: str, ids: NDArray[np.uint8] | None, meta: Mapping[str, Any]
) -> Tile:
    """Make a tile; a label without a single labelled pixel is dropped, as it could teach nothing."""
    counts = None if ids is None else np.bincount(ids.ravel(), minlength=256)
    if ids is None or counts is None or not counts[:IGNORE].any():
        return Tile(key, image, extension, None, meta, None)
    return Tile(key, image, extension, encode_png(ids), meta, counts)


def legal_key(name: str) -> str:
    """Make a WebDataset key of a name: no dots, as the first dot ends the key, and no folders."""
    return name.replace("/", "__").replace(".", "_")


def encode_png(array: NDArray[np.uint8]) -> bytes:
    """Encode pixels as PNG, the same bytes each time.

    Args:
        array: (H, W) or (H, W, 3) uint8.

    Returns:
        A PNG file.
    """
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=3)  # twice as fast as 6, as small
    return buffer.getvalue()


def decode(data: bytes, name: str) -> Image.Image:
    """Decode a whole picture file.

    Args:
        data: the file.
        name: what to call it in an error.

    Returns:
        A loaded picture in its own mode.

    Raises:
        ValueError: not a picture, truncated or damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data))
            picture.load()
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is too large for a tile: cut it into tiles with `shards tile`") from error
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{name} cannot be decoded: it is no picture, or empty ({len(data):,} bytes)"
        ) from error
    except Exception as error:  # Pillow's decoders raise whatever their format's library does
        raise ValueError(f"{name} cannot be decoded ({error}): is it truncated? copy it again") from error
    return picture


class ImageMember(NamedTuple):
    """An image as it goes into a shard: bytes, "jpg" or "png", (height, width), whether it was re-encoded."""

    data: bytes
    extension: str
    size: tuple[int, int]
    converted: bool


def image_member(path: Path) -> ImageMember:
    """Read an image file for a shard, byte for byte when it is an 8-bit RGB JPEG or PNG, else as a new PNG.

    Args:
        path: any picture of 8 bits a channel.

    Returns:
        The member; `converted` says that it is a new PNG.

    Raises:
        ValueError: not a picture, truncated, or of a kind without a plain way to 8-bit RGB.
    """
    data = path.read_bytes()
    picture = decode(data, str(path))
    size = (picture.height, picture.width)
    if data[:4] == b"\x89PNG" and data[24] == 16:  # Pillow would drop the lower bits without a word
        raise ValueError(
            f"{path} has 16 bits a channel: convert it to 8 bits first, choosing the range yourself"
        )
    if picture.mode == "RGB" and picture.format in ("JPEG", "PNG"):
        return ImageMember(data, {"JPEG": "jpg", "PNG": "png"}[picture.format], size, False)
    if picture.mode != "RGB" and picture.mode not in _CONVERTED:
        raise ValueError(f"{path} is a picture of mode {picture.mode}: convert it to 8-bit RGB first")
    return ImageMember(encode_png(np.asarray(picture.convert("RGB"))), "png", size, True)


def mask_ids(path: Path, classfile: ClassFile) -> tuple[NDArray[np.uint8], Unknown]:
    """Read a mask file as class ids.

    Args:
        path: a picture, encoded as the class file says.
        classfile: the encoding.

    Returns:
        ids: (H, W) uint8, 255 where ignored or unknown.
        unknown: pixels of each value or colour which the class file does not know.

    Raises:
        ValueError: not a picture, truncated, or of another kind than the class file says.
    """
    picture = decode(path.read_bytes(), str(path))
    if classfile.masks == "rgb":
        return ids_from_values(np.asarray(picture.convert("RGB")), classfile)
    wanted = ("P",) if classfile.masks == "palette" else ("L", "1", "I;16", "I")
    if picture.mode not in wanted:
        raise ValueError(
            f"mask {path} is a picture of mode {picture.mode}, but masks: {classfile.masks} in "
            f"{classfile.path} needs {' or '.join(wanted)}: correct `masks` there (ids, palette or rgb)"
        )
    return ids_from_values(np.asarray(picture), classfile)


def ids_from_values(values: NDArray[Any], classfile: ClassFile) -> tuple[NDArray[np.uint8], Unknown]:
    """Turn raw mask values into class ids.

    Args:
        values: (H, W) whole numbers for ids and palette, (H, W, 3) uint8 colours for rgb.
        classfile: the encoding.

    Returns:
        ids: (H, W) uint8, 255 where ignored or unknown.
        unknown: pixels of each value or colour which the class file does not know.
    """
    if classfile.masks == "rgb":
        ids, colours = ids_from_rgb(values.astype(np.uint8), classfile.palette, classfile.ignore_colours)
        return ids, colours
    known = classfile.ids
    if known is None:
        known = {**{index: index for index in range(len(classfile.classes))}, IGNORE: IGNORE}
    table = np.full(65536, -1, np.int16)
    table[list(known)] = list(known.values())
    raw = values.astype(np.int64)
    mapped = np.where((raw >= 0) & (raw <= 65535), table[np.clip(raw, 0, 65535)], -1)
    wrong, counts = np.unique(raw[mapped < 0], return_counts=True)
    unknown = {int(value): int(count) for value, count in zip(wrong, counts, strict=True)}
    return np.where(mapped < 0, IGNORE, mapped).astype(np.uint8), unknown
