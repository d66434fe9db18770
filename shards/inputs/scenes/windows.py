"""Tile windows of several rasters, numbered through; the n-th is found by arithmetic."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from mkd.geo.grid import Window


class WindowGrid:
    """All whole tiles of some rasters, raster after raster, each row by row.

    Args:
        shapes: (height, width) of each raster, pixels.
        size: edge of a tile, pixels, >= 1.
        stride: distance between tiles, pixels, >= 1.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], size: int, stride: int) -> None:
        self._size, self._stride = size, stride
        self._grids = [grid_size(shape, size, stride) for shape in shapes]
        self._ends = list(accumulate(rows * cols for rows, cols in self._grids))

    def __len__(self) -> int:
        """Count the windows."""
        return self._ends[-1]

    def rasters(self, start: int, stop: int) -> range:
        """Return the numbers of the rasters that windows start .. stop - 1 lie in (some may have none)."""
        return range(bisect_right(self._ends, start), bisect_right(self._ends, stop - 1) + 1)

    def windows(self, start: int, stop: int) -> Iterator[tuple[int, Window]]:
        """Yield the raster's number and the window of windows start .. stop - 1."""
        for number in self.rasters(start, stop):
            rows, cols = self._grids[number]
            before = self._ends[number] - rows * cols
            for place in range(max(start - before, 0), min(stop - before, rows * cols)):
                row, col = divmod(place, cols)
                yield number, Window(row * self._stride, col * self._stride, self._size, self._size)


def grid_size(shape: tuple[int, int], size: int, stride: int) -> tuple[int, int]:
    """Count the rows and columns of whole tiles in a raster of (height, width) pixels."""
    rows, cols = ((length - size) // stride + 1 if length >= size else 0 for length in shape)
    return rows, cols


def uncovered_pixels(shape: tuple[int, int], size: int, stride: int) -> int:
    """Count the pixels of a raster of (height, width) that lie in no whole tile."""
    rows, cols = (
        0 if count == 0 else size + (count - 1) * min(stride, size)
        for count in grid_size(shape, size, stride)
    )
    return shape[0] * shape[1] - rows * cols
