"""An image as it goes into a shard, and how pixels become one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.inputs.encode import encode_png, without_missing


class ImageMember(NamedTuple):
    """An image as it goes into a shard.

    Attributes:
        data: the file.
        extension: "jpg", "png" or "tif".
        size: (height, width) in pixels.
        converted: it was encoded again, as PNG or TIFF.
        bands: bands.
        dtype: "uint8", "uint16", "int16" or "float32".
        alpha: it had an alpha band, which says where there is data.
    """

    data: bytes
    extension: str
    size: tuple[int, int]
    converted: bool
    bands: int = 3
    dtype: str = "uint8"
    alpha: bool = False


Valid = NDArray[np.bool_] | None  # (H, W), where an image holds data; None = everywhere


def pixel_member(pixels: NDArray[Any], valid: Valid, alpha: bool) -> tuple[ImageMember, Valid]:
    """Encode pixels: 3 bands of uint8 as PNG, others as TIFF; those without data become 0.

    Args:
        pixels: (H, W, bands).
        valid: where there is data.
        alpha: an alpha band said so.

    Returns:
        The member, and `valid`, None where all pixels hold data.
    """
    from mkd.geo.raster import encode_tiff

    if valid is not None and valid.all():
        valid = None
    if valid is not None:
        pixels = without_missing(pixels, valid)
    height, width, bands = pixels.shape
    dtype = str(pixels.dtype)
    if (bands, dtype) == (3, "uint8"):
        return ImageMember(encode_png(pixels), "png", (height, width), True, alpha=alpha), valid
    return ImageMember(encode_tiff(pixels), "tif", (height, width), True, bands, dtype, alpha), valid
