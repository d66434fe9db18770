"""Masks as class ids: files and windows of values or colours, mapped as the class file says."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mkd.geo.coding.file_parts import TIFFS, tiff_tags
from mkd.geo.coding.lossy_coding import lossy_coding
from mkd.geo.coding.picture_pages import check_pages
from mkd.geo.palette import ids_from_rgb
from mkd.geo.picture_header import picture_orientation, turn_picture, turn_upright
from mkd.image_header import MAX_PIXELS, check_size
from mkd.labels import IGNORE
from shards.inputs.class_file import ClassFile
from shards.inputs.encode import UnknownCounts, decode_picture
from shards.inputs.images.tiff_file import open_tiff

_BITS, _FORMAT = 258, 339  # tags of a TIFF
_TABLE = 1 << 16  # values that one table maps: all of 8 and 16 bits


class MaskIds(NamedTuple):
    """A mask, or a part of one, as class ids.

    Attributes:
        ids: (H, W) uint8, 255 where ignored or unknown.
        unknown: pixels of each value or colour which the class file does not know, and gives no rule for.
        assigned: pixels with a value or colour that the class file does not list, which its rule took as the nearest
            one or ignored.
        coding: lossy coding of the mask; "" = its values are as they were drawn.
        missing: pixels that the mask's file itself calls missing (no-data value, mask or alpha), which are ignored.
    """

    ids: NDArray[np.uint8]
    unknown: UnknownCounts
    assigned: int = 0
    coding: str = ""
    missing: int = 0


def read_mask(data: bytes, name: str, classfile: ClassFile, max_pixels: int = MAX_PIXELS) -> MaskIds:
    """Read a mask file as class ids, upright by its own EXIF orientation; what it calls missing is ignored.

    Args:
        data: a picture, encoded as the class file says.
        name: what to call it in an error.
        classfile: the encoding.
        max_pixels: greatest number of pixels that its header may say.

    Raises:
        ValueError: not a picture, several, truncated, of another kind than the class file says, or of a lossy coding
            that the class file does not allow.
    """
    check_size(data, name, max_pixels)
    check_pages(data, f"mask {name}")
    lossy = lossy_coding(io.BytesIO(data))
    check_lossy(lossy, name, classfile)
    orientation = picture_orientation(data, name)
    valid = _tiff_valid(data, name, max_pixels) if data.startswith(TIFFS) else None
    if classfile.masks == "ids" and data.startswith(TIFFS) and _is_wide(data):
        values = turn_upright(_tiff_values(data, name), orientation)
    else:
        picture = turn_picture(decode_picture(data, name, max_pixels), orientation)
        values, opaque = _picture_values(picture, name, classfile)
        valid = opaque if valid is None else valid
    found = ids_where(values, valid, classfile, lossy=bool(lossy))
    return found._replace(coding=lossy, missing=0 if valid is None else int(np.count_nonzero(~valid)))


def check_lossy(coding: str, name: str, classfile: ClassFile) -> None:
    """Refuse a mask of a lossy coding, which holds values that nobody drew.

    Args:
        coding: its name, "" = lossless.
        name: of the mask.
        classfile: may allow it.

    Raises:
        ValueError: it is lossy, and the class file does not say what to do.
    """
    if coding and classfile.lossy_masks is None:
        raise ValueError(
            f"mask {name} is stored as {coding}, which is lossy: along edges it holds values that nobody drew; save "
            "masks as PNG, or, where no others are left and the values of the classes lie far apart (such as 0 and "
            f"255), write lossy_masks: nearest in {classfile.path}"
        )


def ids_where(
    values: NDArray[Any], valid: NDArray[np.bool_] | None, classfile: ClassFile, *, lossy: bool = False
) -> MaskIds:
    """Turn raw mask values into class ids where they are valid; others are ignored, whatever they hold.

    Args:
        values: (H, W) numbers for ids and palette; (H, W, 3) uint8 colours for rgb.
        valid: (H, W); None = everywhere.
        classfile: the encoding.
        lossy: unknown ones become the nearest known value or colour.
    """
    if valid is None or valid.all():
        return ids_from_values(values, classfile, lossy=lossy)
    ids = np.full(valid.shape, IGNORE, np.uint8)
    found = ids_from_values(values[valid][:, None], classfile, lossy=lossy)
    ids[valid] = found.ids[:, 0]
    return found._replace(ids=ids)


def ids_from_values(values: NDArray[Any], classfile: ClassFile, *, lossy: bool = False) -> MaskIds:
    """Turn raw mask values into class ids.

    Args:
        values: (H, W) numbers for ids and palette, NaN = no data; (H, W, 3) uint8 colours for rgb.
        classfile: the encoding.
        lossy: unknown ones become the nearest known value or colour.
    """
    if classfile.masks == "rgb":
        return _ids_of_colours(values.astype(np.uint8), classfile, "nearest" if lossy else None)
    if classfile.threshold is not None:
        ids = (values >= classfile.threshold).astype(np.uint8)
        return MaskIds(
            np.where(np.isnan(values), np.uint8(IGNORE), ids) if values.dtype.kind == "f" else ids, {}
        )
    plain = values.dtype.kind == "b" or (values.dtype.kind == "u" and values.dtype.itemsize <= 2)
    if plain or (values.dtype.kind in "iu" and values.size and values.min() >= 0 and values.max() < _TABLE):
        found = _known_values(classfile, np.arange(_TABLE))[values.astype(np.int64)]
    else:
        distinct, places = np.unique(values, return_inverse=True)
        found = _known_values(classfile, distinct)[places].reshape(values.shape)
    wrong = found < 0
    if not wrong.any():
        return MaskIds(found.astype(np.uint8), {})
    strange, counts = np.unique(values[wrong], return_counts=True)
    if lossy:
        found[wrong] = _nearest_values(classfile, values[wrong])
        return MaskIds(found.astype(np.uint8), {}, int(counts.sum()))
    found[wrong] = IGNORE
    return MaskIds(found.astype(np.uint8), _unknown_values(strange, counts))


def class_ids(ids: NDArray[np.uint8]) -> list[int]:
    """List the class ids that a mask holds, without 255."""
    return [int(value) for value in np.unique(ids) if value != IGNORE]


def _known(classfile: ClassFile) -> dict[int, int]:
    """Return class id by single mask value: those of `ids`, else the identity."""
    if classfile.ids is not None:
        return dict(classfile.ids)
    return {**{index: index for index in range(len(classfile.classes))}, IGNORE: IGNORE}


def _known_values(classfile: ClassFile, values: NDArray[Any]) -> NDArray[np.int16]:
    """Map sorted, distinct values; -1 for unknown ones, 255 for NaN."""
    found = np.full(values.shape, -1, np.int16)
    for first, last, target in classfile.ranges:
        found[(values >= first) & (values <= last)] = target
    if values.dtype.kind == "f":
        found[values != np.round(values)] = -1  # inside a range too: classes have whole numbers
        found[np.isnan(values)] = IGNORE
    for value, target in _known(classfile).items():
        if values.dtype.kind != "f" and abs(value) >= 1 << 63:
            continue
        place = int(np.searchsorted(values, float(value) if values.dtype.kind == "f" else value))
        if place < len(values) and values[place] == value:
            found[place] = target
    return found


def _nearest_values(classfile: ClassFile, values: NDArray[Any]) -> NDArray[np.int16]:
    """Map unknown values to the target of the nearest known one; of two as near to the smaller one's."""
    known = _known(classfile)
    for first, last, target in classfile.ranges:
        known |= {first: target, last: target}
    points = np.array(sorted(known), np.float64)
    right = np.clip(np.searchsorted(points, values), 1, max(1, len(points) - 1))
    left = right - 1
    right = np.minimum(right, len(points) - 1)
    nearer = np.where(values - points[left] <= points[right] - values, left, right)
    return np.array([known[int(point)] for point in points], np.int16)[nearer]


def _unknown_values(values: NDArray[Any], counts: NDArray[np.int64]) -> UnknownCounts:
    """Count unknown values; those that are no whole numbers together, as there may be one for each pixel."""
    whole = np.isfinite(values) & (values == np.round(values))
    unknown: dict[Any, int] = {
        int(value): int(count) for value, count in zip(values[whole], counts[whole], strict=True)
    }
    if not whole.all():
        unknown["no whole number"] = int(counts[~whole].sum())
    return unknown


def _ids_of_colours(colours: NDArray[np.uint8], classfile: ClassFile, rule: str | None) -> MaskIds:
    ids, unknown = ids_from_rgb(colours, classfile.palette, classfile.ignore_colours)
    rule = rule or classfile.unknown_colours
    if not unknown or rule is None:
        return MaskIds(ids, unknown)
    number = sum(unknown.values())
    if rule == "ignore":
        return MaskIds(ids, {}, number)
    # Only pixels without a class can be unknown; each distinct colour of them is compared with all known ones.
    distinct, places = np.unique(colours[ids == IGNORE], axis=0, return_inverse=True)
    best = np.full(len(distinct), np.iinfo(np.int64).max)
    nearest = np.full(len(distinct), IGNORE, np.uint8)
    targets = [*range(len(classfile.palette)), *[IGNORE] * len(classfile.ignore_colours)]
    for colour, target in zip((*classfile.palette, *classfile.ignore_colours), targets, strict=True):
        distance = ((distinct.astype(np.int64) - colour) ** 2).sum(axis=1)
        nearest[distance < best] = target
        best = np.minimum(best, distance)
    ids[ids == IGNORE] = nearest[places.ravel()]
    return MaskIds(ids, {}, number)


def _is_wide(data: bytes) -> bool:
    """Say whether a TIFF holds signed or floating numbers, or more than 16 bits: not Pillow's strength."""
    tags = tiff_tags(io.BytesIO(data))
    return tags.get(_FORMAT, 1) != 1 or tags.get(_BITS, 1) > 16


def _tiff_values(data: bytes, name: str) -> NDArray[Any]:
    from mkd.geo.raster import decode_tiff

    try:
        values = decode_tiff(data)
    except ValueError as error:
        raise ValueError(f"mask {name} cannot be decoded ({error})") from None
    if values.shape[2] != 1:
        raise ValueError(
            f"mask {name} has {values.shape[2]} bands, but masks: ids needs one: choose the right band"
        )
    return values[..., 0]


def _tiff_valid(data: bytes, name: str, max_pixels: int) -> NDArray[np.bool_]:
    """Say which pixels of a TIFF hold data, (H, W), as `tile` reads a label raster."""
    from mkd.geo.grid import Window
    from mkd.geo.raster import DamagedRaster

    try:
        with open_tiff(data, max_pixels) as reader:
            return reader.valid(Window(0, 0, reader.info.height, reader.info.width))
    except DamagedRaster as error:
        raise ValueError(f"mask {name} cannot be decoded ({error})") from None
    except ValueError as error:
        raise ValueError(f"mask {name}: {error}") from None


def _picture_values(
    picture: Image.Image, name: str, classfile: ClassFile
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return the values or colours of a picture, and where it is not transparent; None = everywhere."""
    if classfile.masks == "rgb":
        if not picture.has_transparency_data:
            return np.asarray(picture.convert("RGB")), None
        rgba = np.asarray(picture.convert("RGBA"))
        return rgba[..., :3], rgba[..., 3] != 0
    if classfile.masks == "ids" and picture.mode == "LA":
        grey = np.asarray(picture)
        return grey[..., 0], grey[..., 1] != 0
    _check_mode(picture, name, classfile)
    return np.asarray(picture), None


def _check_mode(picture: Image.Image, name: str, classfile: ClassFile) -> None:
    wanted = ("P",) if classfile.masks == "palette" else ("L", "1", "I;16", "I")
    if picture.mode not in wanted:
        raise ValueError(
            f"mask {name} is a picture of mode {picture.mode}, but masks: {classfile.masks} in "
            f"{classfile.path} needs {' or '.join(wanted)}: correct `masks` there (ids, palette or rgb)"
        )
