"""Class ids from colours, colours from class ids by table look-ups, and pixels as they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mkd.labels import IGNORE, Colour

_UNKNOWN = 254  # a mark inside the table, so a palette may hold 254 classes (ids 0..253)


def ids_from_rgb(
    rgb: NDArray[np.uint8],
    palette: Sequence[Sequence[int]],
    ignore_colours: Sequence[Sequence[int]] = (),
) -> tuple[NDArray[np.uint8], dict[Colour, int]]:
    """Turn colours into class ids: id = position of the colour in the palette.

    Args:
        rgb: (H, W, 3) uint8 colours.
        palette: one (r, g, b) a class, each 0..255, all different; at most 254.
        ignore_colours: colours of pixels without a class.

    Returns:
        ids: (H, W) uint8, class ids; 255 where ignored or unknown.
        unknown: pixels of each colour that is in neither list.

    Raises:
        ValueError: an array of another shape or type, or colours which are not distinct.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(
            f"colours must be (H, W, 3) uint8, found {rgb.shape} {rgb.dtype}: convert to RGB first"
        )
    table = _table(_colours(palette), _colours(ignore_colours))
    packed = (rgb[..., 0].astype(np.uint32) << 16) | (rgb[..., 1].astype(np.uint32) << 8) | rgb[..., 2]
    ids: NDArray[np.uint8] = table[packed]
    wrong = ids == _UNKNOWN
    if not wrong.any():
        return ids, {}
    ids[wrong] = IGNORE
    values, counts = np.unique(packed[wrong], return_counts=True)
    colours = ((int(v) >> 16, int(v) >> 8 & 255, int(v) & 255) for v in values)
    return ids, dict(zip(colours, (int(c) for c in counts), strict=True))


def rgb_from_ids(
    ids: NDArray[np.uint8], palette: Sequence[Sequence[int]], ignore: Sequence[int] = (0, 0, 0)
) -> NDArray[np.uint8]:
    """Colour a map of class ids: rgb[h, w] = palette[ids[h, w]], and `ignore` where the id is 255.

    Args:
        ids: (H, W) uint8, class ids below len(palette), or 255.
        palette: one (r, g, b) a class, each 0..255.
        ignore: colour of ignored pixels.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: an id without a colour.
    """
    table = np.full((256, 3), np.asarray(ignore, np.uint8), np.uint8)
    table[: len(palette)] = np.asarray(palette, np.uint8).reshape(-1, 3)
    wrong = (ids >= len(palette)) & (ids != IGNORE)
    if wrong.any():
        found = sorted(int(v) for v in np.unique(ids[wrong]))
        raise ValueError(
            f"class ids {found} have no colour: the palette has ids 0..{len(palette) - 1}, and 255"
        )
    rgb: NDArray[np.uint8] = table[ids]
    return rgb


def _colours(values: Sequence[Sequence[int]]) -> tuple[Colour, ...]:
    return tuple((int(r), int(g), int(b)) for r, g, b in values)


@lru_cache(maxsize=4)
def _table(palette: tuple[Colour, ...], ignored: tuple[Colour, ...]) -> NDArray[np.uint8]:
    """Return the 16 MiB table from packed colour to id; cached, as each tile of a data set needs the same one."""
    if len(palette) > _UNKNOWN:
        raise ValueError(
            f"a palette of {len(palette)} colours is too long: at most {_UNKNOWN} classes fit in uint8"
        )
    if len({*palette, *ignored}) != len(palette) + len(ignored):
        raise ValueError(
            "a colour occurs twice in the palette and the ignored colours: each class needs its own"
        )
    table = np.full(1 << 24, _UNKNOWN, np.uint8)
    for index, (r, g, b) in enumerate(palette):
        table[(r << 16) | (g << 8) | b] = index
    for r, g, b in ignored:
        table[(r << 16) | (g << 8) | b] = IGNORE
    table.setflags(write=False)
    return table


def screen_values(
    pixels: NDArray[Any],
    known: NDArray[np.bool_] | None = None,
    *,
    eight_bits: bool,
    ends: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> NDArray[np.uint8]:
    """Return pixels for the screen: 8 bits as they are, others stretched, band by band.

    v = 255 clip((x - low) / (high - low), 0, 1), low and high the 2nd and 98th percentile over the known pixels: a few
    hot or dead pixels do not darken the rest. A band of one value is 0.

    Args:
        pixels: (H, W, C) of any type; means of 8 bits may be float.
        known: (H, W), where there is data; None: everywhere. What is not known, or not finite, is 0.
        eight_bits: the values are those of 8 bits already.
        ends: low and high of each band, (C,), in place of the percentiles.
    """
    finite = np.isfinite(pixels).all(axis=2)
    valid = finite if known is None else finite & known
    if not valid.any():
        return np.zeros(pixels.shape, np.uint8)
    values = np.where(valid[..., None], pixels, 0).astype(np.float64)
    if not eight_bits:
        low, high = ends if ends is not None else np.percentile(values[valid], (2, 98), axis=0)
        values = np.clip((values - low) / np.where(high > low, high - low, 1), 0, 1) * 255
    shown: NDArray[np.uint8] = np.where(valid[..., None], np.rint(values), 0).astype(np.uint8)
    return shown
