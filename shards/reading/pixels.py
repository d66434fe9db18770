"""Pixels of a shard's image members, whatever their kind, in all their bands and bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from mkd.image_header import MAX_PIXELS, check_size
from mkd.label_coding import LabelCoding
from shards.inputs.encode import decode_picture


def image_pixels(data: bytes, extension: str, name: str, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """Decode an image member, JPEG with the decoder that training uses.

    Args:
        data: the file.
        extension: "jpg", "png" or "tif".
        name: what to call it in an error.
        max_pixels: greatest number of pixels that its header may say.

    Returns:
        (H, W, C) uint8, or of a TIFF's own type; C is 3 for JPEG and PNG.

    Raises:
        ValueError: not a whole picture of this kind, or a JPEG or PNG that is not 8-bit RGB.
    """
    check_size(data, name, max_pixels)
    if extension == "png":
        picture = decode_picture(data, name, max_pixels)
        if picture.mode != "RGB":
            raise ValueError(f"{name}: the image is of mode {picture.mode}, not RGB")
        return np.asarray(picture)
    try:
        if extension == "tif":
            from mkd.geo.raster import decode_tiff

            return decode_tiff(data)
        if simplejpeg.decode_jpeg_header(data)[2] == "Gray":
            raise ValueError("the image is grey, not RGB")
        pixels: NDArray[Any] = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError as error:
        raise ValueError(f"{name} cannot be decoded ({error}): copy it again, or pack it again") from None
    return pixels


def label_pixels(
    data: bytes, name: str, max_pixels: int = MAX_PIXELS, coding: LabelCoding | None = None
) -> NDArray[np.uint8]:
    """Decode a label member.

    Args:
        data: the file, a PNG.
        name: what to call it in an error.
        max_pixels: greatest number of pixels that its header may say.
        coding: what its values or colours mean, where they are no class ids: `labels` of the index.

    Returns:
        (H, W) uint8 class ids, 255 = ignored.

    Raises:
        ValueError: not a whole grey PNG of 8 bits, or not what the coding says.
    """
    picture = decode_picture(data, name, max_pixels)
    if picture.mode != (wanted := "L" if coding is None else coding.mode):
        raise ValueError(
            f"{name}: the label is of mode {picture.mode}, needs "
            + ("uint8 ids (L): pack it again" if coding is None else f"{wanted}: adopt it again")
        )
    if coding is None:
        return np.asarray(picture)
    try:
        return coding.to_ids(np.asarray(picture))
    except ValueError as error:
        raise ValueError(f"{name}: the label cannot be read ({error}): adopt it again") from None
