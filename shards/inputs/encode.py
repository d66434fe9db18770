"""Encoding of tiles: pictures are decoded with checks, members are encoded the same each time."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mkd.image_header import MAX_PIXELS, check_size
from mkd.labels import IGNORE

# Pixels of each unknown mask value, a whole number, a word or a colour.
UnknownCounts = Mapping[int, int] | Mapping[int | str, int] | Mapping[tuple[int, int, int], int]


@dataclass(frozen=True, eq=False)
class EncodedTile:
    """One tile as a shard holds it: encoded members, not pixels.

    Args:
        key: name without dots.
        image: JPEG, PNG or TIFF file.
        extension: "jpg", "png" or "tif".
        label: PNG of uint8 ids, 255 = ignored; None = unlabelled.
        meta: KEY.json without "labelled", which follows from `label`; "size" is [height, width] in pixels.
        counts: (256,) int64, pixels of each label id; None when unlabelled.
        bands: bands of the image.
        dtype: "uint8", "uint16", "int16" or "float32".
        valid: PNG, 255 where the image holds data and 0 where not; None where it holds data everywhere.
        missing: pixels without data.
    """

    key: str
    image: bytes
    extension: str
    label: bytes | None
    meta: Mapping[str, Any]
    counts: NDArray[np.int64] | None
    bands: int = 3
    dtype: str = "uint8"
    valid: bytes | None = None
    missing: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.meta["size"]
        return int(height), int(width)


def encode_tile(
    key: str,
    image: bytes,
    extension: str,
    ids: NDArray[np.uint8] | None,
    meta: Mapping[str, Any],
    *,
    bands: int = 3,
    dtype: str = "uint8",
    valid: NDArray[np.bool_] | None = None,
) -> EncodedTile:
    """Encode a tile; a label without a single labelled pixel is dropped, as it could teach nothing.

    Pixels without data are ignored, whatever their label.

    Args:
        key: name without dots.
        image: JPEG, PNG or TIFF file.
        extension: "jpg", "png" or "tif".
        ids: (H, W) uint8 class ids, 255 = ignored; None = unlabelled.
        meta: KEY.json without "labelled"; "size" is [height, width] in pixels.
        bands: bands of the image.
        dtype: "uint8", "uint16", "int16" or "float32".
        valid: (H, W), where the image holds data, which is `without_missing`; None = everywhere.
    """
    missing = 0 if valid is None else int(np.count_nonzero(~valid))
    mask = None if valid is None or not missing else encode_png(valid.astype(np.uint8) * 255)
    if ids is not None and valid is not None:
        ids = np.where(valid, ids, np.uint8(IGNORE))
    counts = None if ids is None else np.bincount(ids.ravel(), minlength=256)
    if ids is None or counts is None or not counts[:IGNORE].any():
        return EncodedTile(key, image, extension, None, meta, None, bands, dtype, mask, missing)
    return EncodedTile(key, image, extension, encode_png(ids), meta, counts, bands, dtype, mask, missing)


def without_missing(pixels: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[Any]:
    """Return pixels with 0 in place of those without data: what lies there must not matter.

    Args:
        pixels: (H, W, C).
        valid: (H, W), where there is data.
    """
    return pixels if valid.all() else np.where(valid[..., None], pixels, pixels.dtype.type(0))


def tile_key(name: str) -> str:
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


def decode_picture(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a whole picture file.

    Args:
        data: the file.
        name: what to call it in an error.
        max_pixels: greatest number of pixels that its header may say.

    Returns:
        A loaded picture in its own mode.

    Raises:
        ValueError: not a picture, truncated, damaged or too large.
    """
    check_size(data, name, max_pixels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data))
            _check_opened(picture, name, max_pixels)
            picture.load()
    except _Unwanted as error:
        raise ValueError(str(error)) from None
    except Image.DecompressionBombError:
        raise ValueError(f"{name} is too large for a tile: cut it into tiles with `shards tile`") from None
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{name} cannot be decoded: it is no picture, or empty ({len(data):,} bytes)"
        ) from error
    except Exception as error:  # Pillow's decoders raise whatever their format's library does
        raise ValueError(f"{name} cannot be decoded ({error}): is it truncated? copy it again") from error
    return picture


class _Unwanted(Exception):
    """A picture that is not decoded, for a reason of ours."""


def _check_opened(picture: Image.Image, name: str, max_pixels: int) -> None:
    """Refuse what Pillow's header says is too large, whatever the format, and what is a program."""
    if picture.format == "EPS":
        raise _Unwanted(f"{name} is PostScript, which is a program: convert it to PNG")
    if picture.width * picture.height > max_pixels:
        raise _Unwanted(
            f"{name}: its header says {picture.height:,} x {picture.width:,} pixels, at most {max_pixels:,} are "
            "allowed: cut it into tiles with `shards tile`, or raise --max-pixels"
        )
