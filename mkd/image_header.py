"""Reads the sizes in the headers of PNG, JPEG and TIFF files before any pixel is decoded; without GDAL or Pillow."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

MAX_PIXELS = 100_000_000  # of an image that is decoded whole, and of a block that a raster is stored in
BYTES_A_PIXEL = 4  # what a pixel may take, on average: 8-bit RGB with alpha; more bands or bits, fewer pixels

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_TIFFS = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
_PNG_BANDS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type -> bands
_SIZES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # TIFF's types of whole numbers
# TIFF's tags
_WIDTH, _HEIGHT, _BITS, _BANDS, _STRIP_ROWS, _BLOCK_WIDTH, _BLOCK_HEIGHT = 256, 257, 258, 277, 278, 322, 323


class ImageHeader(NamedTuple):
    """What a file says of its pixels.

    Attributes:
        height: pixels.
        width: pixels.
        bands: of each pixel.
        bits: of each band.
        block: height and width of the pieces that are decoded at once, pixels; the image where it has none.
    """

    height: int
    width: int
    bands: int
    bits: int
    block: tuple[int, int]


def read_header(data: bytes | memoryview) -> ImageHeader | None:
    """Read the header of an image file.

    Args:
        data: the file, or enough of its beginning; a TIFF's header may lie at its end.

    Returns:
        What it says; None for other kinds of files.

    Raises:
        ValueError: a header that is cut short or contradicts its format.
    """
    start = bytes(data[:8])
    try:
        if start == _PNG:
            return _png(data)
        if start[:2] == _JPEG:
            return _jpeg(data)
        if start[:4] in _TIFFS:
            return _tiff(data, *_TIFFS[start[:4]])
    except (struct.error, OverflowError, IndexError):  # a place behind the file's end
        raise ValueError("its header is cut short: is it truncated?") from None
    return None


def size_fault(header: ImageHeader, max_pixels: int) -> str:
    """Return "", or why an image is too large to be decoded whole, with what it has and what is allowed.

    Args:
        header: of the image.
        max_pixels: greatest number of pixels; decoded they may take `BYTES_A_PIXEL` bytes each.
    """
    height, width, bands, bits, block = header
    if height < 1 or width < 1:
        return f"its header says {height:,} x {width:,} pixels"
    if height * width > max_pixels:
        return f"its header says {height:,} x {width:,} pixels, at most {max_pixels:,} are allowed"
    size = bands * -(-bits // 8)  # bytes a pixel; a block is decoded whole, even where the image is smaller
    pixels = max(height * width, block[0] * block[1])
    if pixels * size > BYTES_A_PIXEL * max_pixels:
        return (
            f"its header says {height:,} x {width:,} pixels of {bands:,} x {bits} bits, stored in blocks of "
            f"{block[0]:,} x {block[1]:,}, which is {pixels * size / 1e6:,.0f} MB decoded; at most "
            f"{BYTES_A_PIXEL * max_pixels / 1e6:,.0f} MB are allowed"
        )
    return ""


def check_size(data: bytes | memoryview, name: str, max_pixels: int = MAX_PIXELS) -> None:
    """Check the size in an image's header, before it is decoded.

    Args:
        data: the file.
        name: what to call it in an error.
        max_pixels: greatest number of pixels.

    Raises:
        ValueError: a damaged header, or an image that is too large.
    """
    try:
        header = read_header(data)
    except ValueError as error:
        raise ValueError(f"{name} cannot be decoded ({error}): copy it again") from None
    if header is not None and (fault := size_fault(header, max_pixels)):
        raise ValueError(f"{name}: {fault}: cut it into tiles with `shards tile`, or raise --max-pixels")


def check_shape(data: bytes | memoryview, shape: tuple[int, ...]) -> None:
    """Check that an image's header says the size that is expected, before it is decoded.

    Args:
        data: the file.
        shape: (H, W) or (H, W, bands) of the decoded pixels.

    Raises:
        ValueError: another size, many more bands, or blocks much larger than the image; without the file's name.
    """
    header = read_header(data)
    if header is None:
        return
    height, width, bands, _, block = header
    if (height, width) != shape[:2]:
        raise ValueError(f"it is {height} x {width}, where its record says {shape[0]} x {shape[1]}")
    if bands > max((4, *shape[2:])):  # 4: an alpha band, or one of CMYK, that is left out
        raise ValueError(f"it has {bands:,} bands, where {shape[2] if shape[2:] else 1} are needed")
    if block[0] * block[1] > max(MAX_PIXELS, height * width):
        raise ValueError(f"it is stored in blocks of {block[0]:,} x {block[1]:,} pixels")


def _png(data: bytes | memoryview) -> ImageHeader:
    name, width, height, bits, colour = struct.unpack_from(">4sIIBB", data, 12)
    if name != b"IHDR" or colour not in _PNG_BANDS or bits not in (1, 2, 4, 8, 16):
        raise ValueError("its PNG header is damaged")
    return ImageHeader(height, width, _PNG_BANDS[colour], bits, (height, width))


def _jpeg(data: bytes | memoryview) -> ImageHeader:
    place = 2
    for _ in range(4096):  # segments and fill bytes before the size
        (mark,) = struct.unpack_from(">B", data, place)
        if mark != 0xFF:
            raise ValueError("its JPEG header is damaged")
        (kind,) = struct.unpack_from(">B", data, place + 1)
        if kind == 0xFF:  # a fill byte
            place += 1
            continue
        place += 2
        if kind == 0x01 or 0xD0 <= kind <= 0xD8:  # markers that stand alone
            continue
        if kind in (0xD9, 0xDA):
            raise ValueError("its JPEG header says no size")
        (length,) = struct.unpack_from(">H", data, place)
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            bits, height, width, bands = struct.unpack_from(">BHHB", data, place + 2)
            return ImageHeader(height, width, bands, bits, (height, width))
        if length < 2:
            break
        place += length
    raise ValueError("its JPEG header is damaged")


def _tiff(data: bytes | memoryview, order: str, big: bool) -> ImageHeader:
    """Read the first directory, which is the image that is decoded."""
    tags = dict(_tiff_tags(data, order, big))
    if _WIDTH not in tags or _HEIGHT not in tags:
        raise ValueError("its TIFF header says no size")
    height, width = tags[_HEIGHT][0], tags[_WIDTH][0]
    bands, bits = tags.get(_BANDS, [1])[0], max(tags.get(_BITS, [1]))
    if _BLOCK_WIDTH in tags or _BLOCK_HEIGHT in tags:
        block = tags.get(_BLOCK_HEIGHT, [0])[0], tags.get(_BLOCK_WIDTH, [0])[0]
    else:
        block = min(tags.get(_STRIP_ROWS, [height])[0], height), width
    return ImageHeader(height, width, bands, bits, block)


def _tiff_tags(data: bytes | memoryview, order: str, big: bool) -> Iterator[tuple[int, list[int]]]:
    """Yield the tags of sizes, with their values."""
    (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, place)
    entry, inline = (20, 8) if big else (12, 4)
    place += 8 if big else 2
    for start in range(place, place + entry * min(count, 65535), entry):
        tag, kind, number = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, start)
        if tag not in (_WIDTH, _HEIGHT, _BITS, _BANDS, _STRIP_ROWS, _BLOCK_WIDTH, _BLOCK_HEIGHT):
            continue
        if kind not in _SIZES or number < 1:
            raise ValueError("its TIFF header is damaged")
        layout, taken = _SIZES[kind], min(number, 65535)
        values = start + entry - inline
        if struct.calcsize(order + layout) * number > inline:
            (values,) = struct.unpack_from(order + ("Q" if big else "I"), data, values)
        yield tag, list(struct.unpack_from(f"{order}{taken}{layout}", data, values))
