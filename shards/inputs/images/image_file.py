"""Image files as they go into a shard: checked, and unchanged wherever that is possible."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import simplejpeg

from mkd.geo.coding.picture_pages import check_pages
from mkd.geo.picture_header import picture_orientation, turn_picture
from mkd.image_header import MAX_PIXELS, check_size
from shards.inputs.encode import decode_picture
from shards.inputs.images.image_member import ImageMember, Valid, pixel_member
from shards.inputs.images.tiff_file import pack_tiff

CHECKS = ("ends", "decode")
_CONVERTED = {"L", "LA", "1", "P", "RGBA"}  # 8-bit modes with a plain way to RGB
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF


def image_member(data: bytes, name: str, check: str = "ends", max_pixels: int = MAX_PIXELS) -> ImageMember:
    """Make an image file a member, see `pack_image`."""
    return pack_image(data, name, check, max_pixels=max_pixels)[0]


def pack_image(
    data: bytes,
    name: str,
    check: str = "ends",
    bands: Sequence[int] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> tuple[ImageMember, Valid]:
    """Make an image file a member: byte for byte when it is an 8-bit RGB JPEG or PNG, else as a new PNG.

    A TIFF of more than 3 bands, or of other than 8 bits, keeps all of them in a new TIFF. Pixels without data become 0.
    A picture that its EXIF orientation turns becomes an upright PNG, as the decoders of training do not know of it.

    Args:
        data: any picture of 8 bits a channel, or a TIFF of uint8, uint16, int16 or float32.
        name: what to call it in an error.
        check: "ends" looks at the header and the end marker of JPEG and PNG, and decodes only what these
            leave in doubt; "decode" decodes everything.
        bands: which are kept, counted from 1: data, even where the file calls one alpha; None = all but alpha.
        max_pixels: greatest number of pixels that its header may say.

    Returns:
        The member, and where it holds data: by alpha, and of a TIFF also by its no-data value or mask.

    Raises:
        ValueError: not a picture, several, truncated, of a kind that no network takes, or without the bands asked for.
    """
    check_size(data, name, max_pixels)
    check_pages(data, name)
    orientation = picture_orientation(data, name)
    if data.startswith(_TIFFS) and (found := pack_tiff(data, name, bands, max_pixels)) is not None:
        return found
    if check == "ends" and orientation == 1 and bands in (None, (1, 2, 3)):
        seen = _jpeg_by_header(data) if data.startswith(_JPEG) else _png_by_header(data)
        if seen is not None:
            return seen, None
    picture = turn_picture(decode_picture(data, name, max_pixels), orientation)
    size = (picture.height, picture.width)
    if data.startswith(_PNG) and _PNG_END not in data:  # Pillow is content when all pixels are there
        raise ValueError(f"{name} ends without the end marker of a PNG: is it truncated? copy it again")
    if data.startswith(_PNG) and data[24] == 16:  # Pillow would drop the lower bits without a word
        raise ValueError(
            f"{name} has 16 bits a channel: convert it to 8 bits first, choosing the range yourself, or to TIFF, "
            "which keeps them"
        )
    alpha = picture.has_transparency_data
    plain = picture.mode == "RGB" and picture.format in ("JPEG", "PNG") and not alpha
    if plain and bands in (None, (1, 2, 3)):
        return ImageMember(data, {"JPEG": "jpg", "PNG": "png"}[str(picture.format)], size, False), None
    if picture.mode != "RGB" and picture.mode not in _CONVERTED:
        raise ValueError(f"{name} is a picture of mode {picture.mode}: convert it to 8-bit RGB first")
    rgba = np.asarray(picture.convert("RGBA" if alpha else "RGB"))
    numbers = tuple(bands or (1, 2, 3))
    if max(numbers) > rgba.shape[2] or min(numbers) < 1:
        raise ValueError(
            f"{name} has bands 1..{rgba.shape[2]}, --bands asks for {','.join(map(str, numbers))}: choose others"
        )
    pixels = np.ascontiguousarray(rgba[..., [number - 1 for number in numbers]])
    valid = rgba[..., 3] != 0 if alpha and 4 not in numbers else None
    return pixel_member(pixels, valid, alpha)


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
    if b"tRNS" in data[: data.find(b"IDAT")]:  # a colour that is transparent
        return None
    width, height = (int.from_bytes(header[place : place + 4], "big") for place in (16, 20))
    return ImageMember(data, "png", (height, width), False) if width and height else None
