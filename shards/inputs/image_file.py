"""Image files as they go into a shard: checked, and unchanged wherever that is possible."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import simplejpeg

from mkd.geo.picture_header import picture_orientation, turn_picture, turn_upright
from mkd.image_header import MAX_PIXELS, check_size
from shards.inputs.encode import decode_picture, encode_png
from shards.progress import pluralize

CHECKS = ("ends", "decode")
_CONVERTED = {"L", "LA", "1", "P", "RGBA"}  # 8-bit modes with a plain way to RGB
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF


class ImageMember(NamedTuple):
    """An image as it goes into a shard.

    Attributes:
        data: the file.
        extension: "jpg", "png" or "tif".
        size: (height, width) in pixels.
        converted: it was encoded again, as PNG or TIFF.
        bands: bands.
        dtype: "uint8" or "uint16".
        alpha: it had an alpha band, which was left out.
    """

    data: bytes
    extension: str
    size: tuple[int, int]
    converted: bool
    bands: int = 3
    dtype: str = "uint8"
    alpha: bool = False


def image_member(data: bytes, name: str, check: str = "ends", max_pixels: int = MAX_PIXELS) -> ImageMember:
    """Make an image file a member: byte for byte when it is an 8-bit RGB JPEG or PNG, else as a new PNG.

    A TIFF of more than 3 bands or of 16 bits keeps all of them in a new TIFF. A picture that its EXIF orientation turns
    becomes an upright PNG, as the decoders of training do not know of it.

    Args:
        data: any picture of 8 bits a channel, or a TIFF of 8 or 16.
        name: what to call it in an error.
        check: "ends" looks at the header and the end marker of JPEG and PNG, and decodes only what these
            leave in doubt; "decode" decodes everything.
        max_pixels: greatest number of pixels that its header may say.

    Returns:
        The member.

    Raises:
        ValueError: not a picture, truncated, or of a kind without a plain way to 8-bit RGB.
    """
    check_size(data, name, max_pixels)
    orientation = picture_orientation(data, name)
    if data.startswith(_TIFFS) and (found := _tiff_member(data, name, orientation)) is not None:
        return found
    if check == "ends" and orientation == 1:
        seen = _jpeg_by_header(data) if data.startswith(_JPEG) else _png_by_header(data)
        if seen is not None:
            return seen
    picture = turn_picture(decode_picture(data, name, max_pixels), orientation)
    size = (picture.height, picture.width)
    if data.startswith(_PNG) and _PNG_END not in data:  # Pillow is content when all pixels are there
        raise ValueError(f"{name} ends without the end marker of a PNG: is it truncated? copy it again")
    if data.startswith(_PNG) and data[24] == 16:  # Pillow would drop the lower bits without a word
        raise ValueError(
            f"{name} has 16 bits a channel: convert it to 8 bits first, choosing the range yourself"
        )
    if picture.mode == "RGB" and picture.format in ("JPEG", "PNG"):
        return ImageMember(data, {"JPEG": "jpg", "PNG": "png"}[picture.format], size, False)
    if picture.mode != "RGB" and picture.mode not in _CONVERTED:
        raise ValueError(f"{name} is a picture of mode {picture.mode}: convert it to 8-bit RGB first")
    pixels, alpha = np.asarray(picture.convert("RGB")), picture.has_transparency_data
    return ImageMember(encode_png(pixels), "png", size, True, alpha=alpha)


def _tiff_member(data: bytes, name: str, orientation: int) -> ImageMember | None:
    """Keep all bands and bits of a TIFF that a PNG cannot hold; None leaves the others to Pillow."""
    from mkd.geo.raster import decode_tiff, encode_tiff

    try:
        pixels = turn_upright(decode_tiff(data), orientation)
    except ValueError as error:
        raise ValueError(f"{name} cannot be decoded ({error})") from None
    height, width, bands = pixels.shape
    dtype = str(pixels.dtype)
    if dtype == "uint8" and bands <= 3:
        return None
    if dtype not in ("uint8", "uint16") or bands < 3:
        raise ValueError(
            f"{name} has {pluralize(bands, 'band')} of {dtype}: images need 3 or more bands of uint8 or uint16; "
            "convert it, such as with gdal_translate"
        )
    return ImageMember(encode_tiff(pixels), "tif", (height, width), True, bands, dtype)


def _jpeg_by_header(data: bytes) -> ImageMember | None:
    """Take a JPEG at its header and end marker; None leaves it to a full decode."""
    if not data.endswith(_JPEG_END):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return ImageMember(data, "jpg", (height, width), False) if colours in ("YCbCr", "RGB") else None


def _png_by_header(data: bytes) -> ImageMember | None:
    """Take a PNG of 8-bit RGB at its header and end marker; None leaves it to a full decode."""
    header = data[:33]
    rgb = len(header) == 33 and header[12:16] == b"IHDR" and header[24:26] == b"\x08\x02"
    if not (rgb and data.startswith(_PNG) and data.endswith(_PNG_END)):
        return None
    width, height = (int.from_bytes(header[place : place + 4], "big") for place in (16, 20))
    return ImageMember(data, "png", (height, width), False) if width and height else None
