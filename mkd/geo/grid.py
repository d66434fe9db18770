"""Windows over a raster: a cover for prediction, and contact between tiles."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

Start = tuple[int, int]  # row and column, pixels

# Pixels, added before a floor: origins lie at whole, half, third and tenth pixels, where rounding must not decide.
_OFF_ROUND = 0.1371


class Window(NamedTuple):
    """A rectangle of pixels: rows [row, row + height), columns [col, col + width), all in pixels."""

    row: int
    col: int
    height: int
    width: int


def grid_start(transform: tuple[float, ...] | None, step: int) -> Start:
    """Return where the first window begins of a grid that is fixed to the ground.

    Its windows begin every `step` pixels from the origin of the CRS, (x, y) = (0, 0). So a raster and what is cut out
    of it by whole pixels have the same windows.

    Args:
        transform: (a, b, c, d, e, f) with x = a col + b row + c, y = d col + e row + f; None: the raster has no place.
        step: from one window to the next, pixels, >= 1.

    Returns:
        Row and column in [0, step); (0, 0) without a place.
    """
    if transform is None:
        return 0, 0
    a, b, c, d, e, f = transform
    area = a * e - b * d
    if not area:
        return 0, 0
    # The pixel of the origin: a col + b row = -c, d col + e row = -f.
    row, col = (c * d - a * f) / area, (b * f - c * e) / area
    return math.floor(row + _OFF_ROUND) % step, math.floor(col + _OFF_ROUND) % step


def covering_windows(
    height: int, width: int, size: int, overlap: int, first: Start = (0, 0)
) -> Iterator[Window]:
    """Yield windows of one size that together cover every pixel, row by row.

    Along an axis of length n the starts are 0, those of g, g + s, g + 2s, ... that lie between, and n - size, with
    s = size - overlap. So windows at the edges are shifted inside. A shorter axis gets one window of length n.

    Args:
        height: raster rows, pixels, >= 1.
        width: raster columns, pixels, >= 1.
        size: edge of a window, pixels, >= 1.
        overlap: least overlap of neighbouring windows, pixels, 0 <= overlap < size.
        first: g of rows and columns, each in [0, s): `grid_start`.

    Returns:
        An iterator over windows, row-major.

    Raises:
        ValueError: a number out of its range.
    """
    _positive(height=height, width=width, size=size)
    if not 0 <= overlap < size:
        raise ValueError(f"overlap {overlap} is not in [0, size): choose an overlap below the size {size}")
    step = size - overlap
    assert 0 <= min(first) <= max(first) < step, first
    rows, cols = _starts(height, size, step, first[0]), _starts(width, size, step, first[1])
    tall, wide = min(size, height), min(size, width)
    return (Window(row, col, tall, wide) for row in rows for col in cols)


def touches(a: Window, b: Window) -> bool:
    """Return whether two windows of one raster share pixels, an edge or a corner.

    a.row <= b.row + b.height and b.row <= a.row + a.height, and the same for columns.

    Args:
        a: first window, pixels.
        b: second window, pixels, of the same raster.

    Returns:
        True when no free pixel lies between them.
    """
    in_rows = a.row <= b.row + b.height and b.row <= a.row + a.height
    in_cols = a.col <= b.col + b.width and b.col <= a.col + a.width
    return in_rows and in_cols


def _starts(length: int, size: int, step: int, first: int) -> list[int]:
    if length <= size:
        return [0]
    return sorted({0, *range(first, length - size, step), length - size})


def _positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} is {number}: it must be at least 1 pixel")
