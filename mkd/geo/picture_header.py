"""How the header of a picture file says that its pixels are turned."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from mkd.geo.coding.file_parts import TIFFS, chunks, tiff_tags
from mkd.geo.coding.picture_pages import pages_fault
from mkd.geo.grid import Window
from mkd.geo.raster_info import RasterInfo

_ORIENTATION = ExifTags.Base.Orientation
_GEO_TAGS = (33550, 33922, 34264)  # ModelPixelScale, ModelTiepoint, ModelTransformation
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_XMP, _MOST_XMP = b"XML:com.adobe.xmp\0", 1 << 20
# In the stored pixels, before rows become columns.
_ROWS_FLIPPED, _COLUMNS_FLIPPED = (3, 4, 6, 7), (2, 3, 7, 8)
_PLACED_AND_TURNED = (
    "has a place on Earth and orientation {} in its EXIF data or TIFF tags: one says that its pixels lie as stored, "
    "the other that they are turned; gdal_translate IN OUT makes a copy without the orientation"
)


def read_orientation(file: BinaryIO) -> int:
    """Read how a picture must be turned to be seen as intended: the EXIF value, 1 = as stored.

    JPEG, PNG and WebP say it in their EXIF data, TIFF in its Orientation tag; other formats are as stored.

    Args:
        file: from its beginning; only headers are read.

    Returns:
        1..8; 1 also for a value outside, which viewers ignore.

    Raises:
        ValueError: a GeoTIFF with a place on Earth, and turned.
    """
    start, found = file.read(16), 1
    file.seek(0)
    if start.startswith(TIFFS):
        tags = tiff_tags(file)
        found = _known(tags.get(_ORIENTATION))
        if found != 1 and any(tag in tags for tag in _GEO_TAGS):
            raise ValueError(_PLACED_AND_TURNED.format(found))
    elif start.startswith(b"\x89PNG"):
        found = _known(_png_exif(file).get(_ORIENTATION))
    elif start.startswith(b"\xff\xd8\xff") or start[8:12] == b"WEBP":
        with suppress(
            Exception
        ):  # a damaged header says nothing; whether the pixels are whole is checked elsewhere
            found = _known(Image.open(file).getexif().get(_ORIENTATION))
    return found


def picture_orientation(data: bytes, name: str) -> int:
    """Read the orientation of a picture in memory, see `read_orientation`.

    Raises:
        ValueError: a GeoTIFF with a place on Earth, and turned, called by its name.
    """
    try:
        return read_orientation(io.BytesIO(data))
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def turn_picture(picture: Image.Image, orientation: int) -> Image.Image:
    """Turn a loaded picture upright; Pillow has done so already with a TIFF."""
    method = _TURNS.get(orientation)
    return picture if method is None or picture.format == "TIFF" else picture.transpose(method)


def oriented(path: str, file: BinaryIO, info: RasterInfo) -> tuple[int, RasterInfo]:
    """Describe a raster of one picture as it is seen; GDAL tells of its stored pixels.

    Args:
        path: what to call it in an error.
        file: its content, from the beginning.
        info: of the stored raster.

    Returns:
        Its orientation, 1..8, and the description of the upright raster.

    Raises:
        ValueError: it has a place on Earth, and is turned; or it holds several pictures.
    """
    try:
        orientation = read_orientation(file)
        if fault := pages_fault(file):
            raise ValueError(fault)
        if orientation != 1 and (info.crs is not None or info.transform is not None):
            raise ValueError(_PLACED_AND_TURNED.format(orientation))
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    if orientation < 5:
        return orientation, info
    return orientation, replace(info, height=info.width, width=info.height, stored=info.stored[::-1])


def turn_upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn stored pixels as their orientation says.

    Args:
        pixels: (H, W) or (H, W, C) as stored.
        orientation: of EXIF, 1..8.

    Returns:
        The pixels as seen: (W, H, ...) for 5..8.
    """
    if orientation in _ROWS_FLIPPED:
        pixels = pixels[::-1]
    if orientation in _COLUMNS_FLIPPED:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels.swapaxes(0, 1) if orientation >= 5 else pixels)


def stored_window(window: Window, orientation: int, height: int, width: int) -> Window:
    """Find the stored pixels of a window of the upright picture.

    Args:
        window: in the picture as seen.
        orientation: of EXIF, 1..8.
        height: of the stored picture, pixels.
        width: the same.
    """
    row, col, rows, cols = window
    if orientation >= 5:
        row, col, rows, cols = col, row, cols, rows
    if orientation in _ROWS_FLIPPED:
        row = height - row - rows
    if orientation in _COLUMNS_FLIPPED:
        col = width - col - cols
    return Window(row, col, rows, cols)


def _known(value: object) -> int:
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _png_exif(file: BinaryIO) -> Mapping[int, Any]:
    """Read the EXIF chunk of a PNG, else its XMP, before or behind its pixels, which are skipped."""
    exif, xmp = Image.Exif(), None
    with suppress(Exception):  # see above
        for kind, size in chunks(file, 8, "big"):
            if kind == b"eXIf":
                exif.load(b"Exif\0\0" + file.read(size))
            elif kind in (b"zTXt", b"tEXt") and b"Raw profile type exif" in file.read(
                min(size, 32)
            ):  # ImageMagick's way
                file.seek(0)
                return Image.open(file).getexif()
            elif kind == b"iTXt" and (text := file.read(min(size, _MOST_XMP))).startswith(_XMP):
                xmp = re.search(rb"tiff:Orientation(?:=[\"']|>)([1-8])\b", text)
    return {_ORIENTATION: int(xmp[1])} if xmp and _ORIENTATION not in exif else exif
