"""Images and labels of shards that others wrote: whether training can read their bytes as they lie."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mkd.dataset.codec import decode_label
from mkd.geo.picture_header import picture_orientation
from mkd.image_header import MAX_PIXELS
from mkd.label_coding import LabelCoding
from mkd.labels import IGNORE
from shards.inputs.class_file import ClassFile
from shards.inputs.images.image_file import pack_image
from shards.inputs.images.image_member import ImageMember
from shards.inputs.mask_file import MaskIds, ids_from_values, read_mask

REMEDY = (
    "unpack each shard into a folder of its own (other shards may have its keys too) and run `python -m shards pack`, "
    "with such as layout: {images: '*/*.jpg', masks: '{dir}/{stem}.seg.png'} in the class file"
)
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


def label_coding(classfile: ClassFile) -> LabelCoding | None:
    """Return how labels of a class file are mapped while they are decoded; None: their values are class ids.

    Raises:
        ValueError: a rule that needs more than a table.
    """
    if classfile.masks == "rgb":
        if classfile.unknown_colours == "nearest":
            raise ValueError(
                f"{classfile.path} has unknown_colours: nearest, which no label of an adopted shard can have: write "
                f"unknown_colours: ignore, or {REMEDY}"
            )
        colours = [*zip(classfile.palette, range(len(classfile.palette)), strict=True)]
        colours += [(colour, IGNORE) for colour in classfile.ignore_colours]
        ids = tuple(((r << 16) | (g << 8) | b, target) for (r, g, b), target in colours)
        return LabelCoding("RGB", ids, classfile.unknown_colours == "ignore")
    found = ids_from_values(np.arange(256, dtype=np.uint8)[None], classfile)
    ids = tuple((n, int(target)) for n, target in enumerate(found.ids[0]) if n not in found.unknown)
    if classfile.masks == "ids" and all(value == target for value, target in ids):
        return None
    return LabelCoding("P" if classfile.masks == "palette" else "L", ids)


def stored_label(
    data: bytes,
    name: str,
    classfile: ClassFile,
    coding: LabelCoding | None,
    size: tuple[int, int],
    max_pixels: int = MAX_PIXELS,
) -> tuple[MaskIds, NDArray[np.int64]]:
    """Read a label that training reads as it lies: a PNG of 8 bits whose values one table maps to class ids.

    Args:
        data: the file.
        name: what to call it in an error.
        classfile: what its values mean.
        coding: the same, as training has it: `label_coding`.
        size: height and width of its image, pixels.
        max_pixels: greatest number of pixels that its header may say.

    Returns:
        The label, maybe with unknown values; and (256,) the pixels of each id.

    Raises:
        ValueError: another size, not a picture, or one that training would read otherwise than `pack`.
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
            decode_label(data, stored, coding)
        except ValueError as error:
            raise ValueError(f"label {name} cannot be read as it lies ({error}): {REMEDY}") from None
        if not np.array_equal(stored, found.ids):
            raise ValueError(
                f"label {name} cannot be read as it lies: it has an orientation, or pixels that it calls missing; "
                f"{REMEDY}, which heeds them"
            )
    return found, np.bincount(found.ids.ravel(), minlength=256)
