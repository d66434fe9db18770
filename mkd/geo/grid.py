"""Windows over a raster: a cover for prediction, and contact between tiles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Window(NamedTuple):
    """A rectangle of pixels: rows [row, row + height), columns [col, col + width), all in pixels."""

    row: int
    col: int
    height: int
    width: int


def covering_windows(height: int, width: int, size: int, overlap: int) -> Iterator[Window]:
    """Yield windows of one size that together cover every pixel, row by row.

    Along an axis of length n the starts are 0, s, 2s, ... with s = size - overlap, and the last is n - size,
    so the last row and column are shifted back inside. A shorter axis gets one window of length n.

    Args:
        height: raster rows, pixels, >= 1.
        width: raster columns, pixels, >= 1.
        size: edge of a window, pixels, >= 1.
        overlap: least overlap of neighbouring windows, pixels, 0 <= overlap < size.

    Returns:
        An iterator over windows, row-major.

    Raises:
        ValueError: a number out of its range.
    """
    _positive(height=height, width=width, size=size)
    if not 0 <= overlap < size:
        raise ValueError(f"overlap {overlap} is not in [0, size): choose an overlap below the size {size}")
    rows, cols = _starts(height, size, size - overlap), _starts(width, size, size - overlap)
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


def _starts(length: int, size: int, step: int) -> list[int]:
    if length <= size:
        return [0]
    return [*range(0, length - size, step), length - size]


def _positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} is {number}: it must be at least 1 pixel")
