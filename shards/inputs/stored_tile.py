"""Images and labels of shards that others wrote: whether training can read their bytes as they lie."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mkd.dataset.codec import decode_label
from mkd.geo.picture_header import picture_orientation
from mkd.image_header import MAX_PIXELS
from shards.inputs.class_file import ClassFile
from shards.inputs.images.image_file import pack_image
from shards.inputs.images.image_member import ImageMember
from shards.inputs.mask_file import MaskIds, read_mask

REMEDY = "unpack the shards into a folder and run `python -m shards pack`"
_TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF


def stored_image(data: bytes, name: str, check: str = "ends", max_pixels: int = MAX_PIXELS) -> ImageMember:
    """Describe an image that training reads as it lies: what `pack` would keep byte for byte, and TIFFs of all data.

    Args:
        data: the file.
        name: what to call it in an error.
        check: "ends" or "decode", see `pack_image`.
        max_pixels: greatest number of pixels that its header may say.

    Returns:
        The image, with the extension that its content has.

    Raises:
        ValueError: not a picture, truncated, or one that `pack` would have to store anew.
    """
    member, valid = pack_image(data, name, check, max_pixels=max_pixels)
    if not member.converted:
        return member
    if data.startswith(_TIFFS) and valid is None and picture_orientation(data, name) == 1:
        from mkd.geo.raster import decode_tiff

        pixels = decode_tiff(data)
        if (*pixels.shape, str(pixels.dtype)) == (*member.size, member.bands, member.dtype):
            return ImageMember(data, "tif", member.size, False, member.bands, member.dtype)
    raise ValueError(
        f"{name} cannot be read as it lies: it is grey, has a palette, alpha, pixels without data or an orientation, "
        f"or is no JPEG, PNG or TIFF; {REMEDY}, which converts it"
    )


def stored_label(
    data: bytes, name: str, classfile: ClassFile, size: tuple[int, int], max_pixels: int = MAX_PIXELS
) -> tuple[MaskIds, NDArray[np.int64]]:
    """Read a label that training reads as it lies: a grey PNG of 8 bits whose values are class ids, 255 = ignored.

    Args:
        data: the file.
        name: what to call it in an error.
        classfile: what its values mean.
        size: height and width of its image, pixels.
        max_pixels: greatest number of pixels that its header may say.

    Returns:
        The label, maybe with unknown values; and (256,) the pixels of each id.

    Raises:
        ValueError: another size, not a picture, or values that mean other ids.
    """
    found = read_mask(data, name, classfile, max_pixels)
    if found.ids.shape != size:
        raise ValueError(
            f"label {name} is {found.ids.shape[0]} x {found.ids.shape[1]} pixels (height x width), its image "
            f"{size[0]} x {size[1]}: they must be equal"
        )
    if not found.unknown:
        stored = np.empty(size, np.uint8)
        try:
            decode_label(data, stored)
        except ValueError as error:
            raise ValueError(f"label {name} cannot be read as it lies ({error}): {REMEDY}") from None
        if not np.array_equal(stored, found.ids):
            raise ValueError(
                f"label {name} cannot be read as it lies: `ids` in {classfile.path} gives its values other class ids: "
                f"{REMEDY}, which maps them"
            )
    return found, np.bincount(found.ids.ravel(), minlength=256)
