"""What the header of a picture file says of its pixels: how they are turned, and whether its coding changed them."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from mkd.geo.grid import Window
from mkd.geo.raster_info import RasterInfo

_ORIENTATION = ExifTags.Base.Orientation
_TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
_GEO_TAGS = (33550, 33922, 34264)  # ModelPixelScale, ModelTiepoint, ModelTransformation
_COMPRESSION, _STRIPS, _TILES = 259, 273, 324
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WHOLE_TYPES = {1: "B", 3: "H", 4: "I", 8: "h", 9: "i", 16: "Q"}  # TIFF's numbers of types, struct's letters
_XMP, _MOST_XMP = b"XML:com.adobe.xmp\0", 1 << 20
_MOST_TAGS = 4096  # no real file has as many
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
    if start.startswith(_TIFFS):
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
    """Describe a raster as it is seen; GDAL tells of its stored pixels.

    Args:
        path: what to call it in an error.
        file: its content, from the beginning.
        info: of the stored raster.

    Returns:
        Its orientation, 1..8, and the description of the upright raster.

    Raises:
        ValueError: it has a place on Earth, and is turned.
    """
    try:
        orientation = read_orientation(file)
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


def lossy_coding(file: BinaryIO) -> str:
    """Name the lossy coding of a picture by its content: "JPEG", say; "" where its pixels are as they were drawn.

    Args:
        file: from its beginning; only headers are read.
    """
    start = file.read(16)
    file.seek(0)
    if not start.startswith(_TIFFS):
        return _lossy_start(file)
    tags = tiff_tags(file)
    match tags.get(_COMPRESSION):
        case 6 | 7 | 34892:
            return "JPEG in a TIFF"
        case 34712 | 33003 | 33005 | 50001:  # JPEG 2000 and WebP, whose blocks tell
            block = _read_at(file, tags.get(_TILES) or tags.get(_STRIPS) or 0, 4096)
            inside = _lossy_start(io.BytesIO(block))
            return f"{inside} in a TIFF" if inside else ""
    return ""


def tiff_tags(file: BinaryIO) -> dict[int, int]:
    """Read the first value of each tag of a TIFF's first picture; none of a damaged one.

    Args:
        file: a TIFF or BigTIFF of either byte order; only its directory is read.

    Returns:
        Values by tag; 0 for tags that hold no whole numbers.
    """
    start = _read_at(file, 0, 16)
    order = "<" if start[:2] == b"II" else ">"
    big = struct.unpack(order + "H", start[2:4])[0] == 43
    pointer, head = ("Q", "Q") if big else ("I", "H")  # of an offset, and of the number of entries
    field = struct.calcsize(pointer)
    tags: dict[int, int] = {}
    with suppress(
        struct.error, OverflowError
    ):  # what is cut off says nothing; whether the pixels are whole is checked elsewhere
        place = struct.unpack(order + pointer, start[field : 2 * field])[0]
        count = struct.unpack(order + head, _read_at(file, place, struct.calcsize(head)))[0]
        entries = file.read(count * (4 + 2 * field)) if count < _MOST_TAGS else b""
        for at in range(0, len(entries), 4 + 2 * field):
            tag, kind, number = struct.unpack_from(order + "HH" + pointer, entries, at)
            code, value = _WHOLE_TYPES.get(kind, ""), entries[at + 4 + field :][:field]
            if code and number * struct.calcsize(code) > field:
                value = _read_at(file, struct.unpack(order + pointer, value)[0], 8)
            tags[tag] = struct.unpack_from(order + code, value)[0] if code else 0
    file.seek(0)
    return tags


def _known(value: object) -> int:
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _png_exif(file: BinaryIO) -> Mapping[int, Any]:
    """Read the EXIF chunk of a PNG, else its XMP, before or behind its pixels, which are skipped."""
    exif, xmp = Image.Exif(), None
    with suppress(Exception):  # see above
        for kind, size in _chunks(file, 8, "big"):
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


def _chunks(file: BinaryIO, start: int, order: str) -> Iterator[tuple[bytes, int]]:
    """Yield type and length of each chunk of a PNG ("big") or WebP ("little"); the file is at the chunk's content."""
    place = start
    while len(header := _read_at(file, place, 8)) == 8:
        if order == "big":
            size, kind = int.from_bytes(header[:4], "big"), header[4:]
            place += 12 + size
        else:
            kind, size = header[:4], int.from_bytes(header[4:], "little")
            place += 8 + size + size % 2
        yield kind, size


def _read_at(file: BinaryIO, place: int, size: int) -> bytes:
    file.seek(place)
    return file.read(size)


def _lossy_webp(file: BinaryIO) -> bool:
    """Say whether a WebP holds a lossy picture, alone or as a frame; only those have an ALPH chunk."""
    for kind, _ in _chunks(file, 12, "little"):
        if kind == b"ANMF":
            kind = file.read(20)[16:]  # a frame's own header has 16 bytes
        if kind in (b"VP8 ", b"ALPH"):
            return True
    return False


def _lossy_start(file: BinaryIO) -> str:
    start = file.read(4096)
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if start[8:12] == b"WEBP":
        return "WebP" if _lossy_webp(file) else ""
    if start[4:8] == b"ftyp" and start[8:12] in (b"avif", b"avis", b"heic", b"heix", b"mif1"):
        return "AVIF or HEIC"
    if start[4:8] == b"jP  " or start.startswith(b"\xff\x4f\xff\x51"):
        style = start.find(b"\xff\x52")  # its thirteenth byte is 1 for the reversible wavelet
        return "" if style >= 0 and start[style + 13 : style + 14] == b"\x01" else "JPEG 2000"
    return ""
