"""Decodes a member of a shard into a given array; no torch.

JPEG is decoded by simplejpeg: faster than torchvision and Pillow (`launch/throughput.py data` measures all three),
straight into the array, and its pixels are those of torchvision.
"""

from __future__ import annotations

import io
from collections.abc import Container
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from mkd.image_header import check_shape
from mkd.label_coding import LabelCoding

IMAGES = ("jpg", "png", "tif")  # extensions of an image member
LABEL = "label.png"
_MODES = {
    "L": "a grey picture of 8 bits",
    "P": "a picture with a palette",
    "RGB": "a picture of 8-bit colours",
}
VALID = "valid.png"  # of tiles with missing pixels: 0 where missing, 255 where there is data


def image_kind(members: Container[str]) -> str:
    """Return the extension of a tile's image member, "" when there is none."""
    for kind in IMAGES:
        if kind in members:
            return kind
    return ""


def decode_image(data: bytes | memoryview, kind: str, out: NDArray[Any]) -> None:
    """Decode an image; grey becomes three equal bands.

    Args:
        data: the file.
        kind: "jpg", "png" or "tif".
        out: (H, W, bands), of JPEG and PNG 3 of uint8, contiguous; is overwritten.

    Raises:
        ValueError: not a whole picture of this kind, or of another size than ``out``.
    """
    check_shape(data, out.shape)
    if kind == "jpg" and out.dtype == np.uint8:
        # simplejpeg refuses a picture that is larger than the buffer.
        _check_size(simplejpeg.decode_jpeg(data, "RGB", buffer=out).shape, out)
        return
    if kind == "tif":
        from mkd.geo.raster import decode_tiff

        pixels = decode_tiff(bytes(data))
        if pixels.dtype != out.dtype:
            raise ValueError(f"it is of {pixels.dtype}, where the index says {out.dtype}")
    elif out.dtype != np.uint8:
        raise ValueError(f"it is of uint8, where the index says {out.dtype}")
    else:
        pixels = _png(data, "RGB")
    _check_size(pixels.shape, out)
    out[...] = pixels


def decode_label(data: bytes | memoryview, out: NDArray[np.uint8], coding: LabelCoding | None = None) -> None:
    """Decode a label.

    Args:
        data: a grey PNG of 8 bits: class ids, 255 = ignore.
        out: (H, W) uint8; is overwritten.
        coding: what the PNG's values or colours mean, where they are no class ids.

    Raises:
        ValueError: not a whole picture of this kind, or of another size than ``out``.
    """
    check_shape(data, out.shape)
    pixels = _png(data, "L" if coding is None else coding.mode, strict=True)
    _check_size(pixels.shape[:2], out)
    out[...] = pixels if coding is None else coding.to_ids(pixels)


def _png(data: bytes | memoryview, mode: str, strict: bool = False) -> NDArray[np.uint8]:
    """Decode a PNG, converted to a mode of Pillow; strict refuses another one."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            if strict and picture.mode != mode:
                raise ValueError(f"a label here is {_MODES[mode]}, not of mode {picture.mode}")
            return np.asarray(picture.convert(mode) if picture.mode != mode else picture)
    except Exception as error:  # Pillow passes on the errors of each format's library
        raise ValueError(str(error).replace("\n", " ")) from None


def _check_size(shape: tuple[int, ...], out: NDArray[Any]) -> None:
    if shape != out.shape:
        found, wanted = (" x ".join(str(n) for n in each) for each in (shape, out.shape))
        raise ValueError(f"it is {found}, where its record says {wanted}")
