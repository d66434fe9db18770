"""Overlap-blend of window predictions, streamed from the top of a raster to its bottom.

Windows overlap, because a network sees least at a window's edge. Each window is weighted with a raised
cosine that is largest in its middle, the weighted values are summed, and each pixel is divided by the weights
that reached it. Rows above the next window can receive nothing more, so they leave at once: memory holds one
row of windows, whatever the height of the raster.
Shapes: C channels, H W pixels of a window, K rows of a band.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mkd.geo.grid import Window

Floats = NDArray[np.float32]


class Band(NamedTuple):
    """Finished rows: the first row's number and the blended values (C, K, raster width), float32."""

    row: int
    values: Floats


@lru_cache(maxsize=8)
def window_weight(height: int, width: int, floor: float = 1e-3) -> Floats:
    """Return the smooth, strictly positive weight of each pixel of a window.

    w(i, j) = v_H(i) v_W(j),  v_n(i) = floor + (1 - floor) sin^2(pi (i + 1/2) / n).

    Args:
        height: window height, pixels, >= 1.
        width: window width, pixels, >= 1.
        floor: smallest factor, in (0, 1]; keeps a pixel that only one window's edge covers well-defined.

    Returns:
        (height, width) float32 in (0, 1], read-only, symmetric in both axes.

    Source: separable Hann window, sampled at pixel centres.
    """
    assert min(height, width) > 0, (height, width)
    assert 0 < floor <= 1, floor

    def one_axis(length: int) -> NDArray[np.float64]:
        return floor + (1 - floor) * np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2

    weight: Floats = np.outer(one_axis(height), one_axis(width)).astype(np.float32)
    weight.setflags(write=False)
    return weight


class BandBlender:
    """Weighted mean of overlapping windows, given row-major, emitted as finished rows.

    out(c, y, x) = sum_k w_k(y, x) v_k(c, y, x) / sum_k w_k(y, x)   over the windows k that cover (y, x).

    Memory is (C + 1) * rows * width float32, where `rows` is the tallest window, for any raster height.
    """

    def __init__(self, height: int, width: int, channels: int, rows: int, top: int = 0) -> None:
        """Start with empty sums.

        Args:
            height: of the raster, pixels; less ends the rows that are emitted there, whatever windows reach below.
            width: raster width, pixels.
            channels: C, values a pixel.
            rows: height of the tallest window that will come, pixels; as many rows are held at once.
            top: raster row to begin with, that of the first window.
        """
        self.height, self.channels, self.rows_held = height, channels, rows
        self.top = top  # raster row of the buffer's first row; all rows above have been emitted
        self._sum: Floats = np.zeros((channels, rows, width), np.float32)
        self._weight: Floats = np.zeros((rows, width), np.float32)

    def blend(self, windows: Iterable[tuple[Window, Floats]]) -> Iterator[Band]:
        """Yield the raster's rows from top to bottom, each once, as soon as no window can change them.

        Args:
            windows: pairs of a window and its values (C, H, W); row-major (rows never go back), together
                covering every pixel of the raster, as `mkd.geo.grid.covering_windows` gives them.

        Yields:
            `Band`: its values are a view into the buffer, valid until the next band is asked for.
        """
        for window, values in windows:
            if window.row > self.top:
                yield from self._emit(window.row - self.top)
            self._add(window, values)
        yield from self._emit(self.height - self.top)

    def _add(self, window: Window, values: Floats) -> None:
        row, column, height, width = window
        assert row >= self.top, f"window {window} comes after row {self.top} was finished: not row-major"
        assert row - self.top + height <= self.rows_held, f"window {window} exceeds {self.rows_held} rows"
        assert values.shape == (self.channels, height, width), (values.shape, self.channels, window)
        rows, columns = slice(row - self.top, row - self.top + height), slice(column, column + width)
        weight = window_weight(height, width)
        self._sum[:, rows, columns] += values * weight
        self._weight[rows, columns] += weight

    def _emit(self, count: int) -> Iterator[Band]:
        done, kept = self._sum[:, :count], self.rows_held - count
        weight = self._weight[:count]
        assert 0 < count <= self.rows_held, f"rows from {self.top}: not fully covered"
        assert (weight > 0).all(), f"rows from {self.top}: not fully covered"
        done /= weight
        yield Band(self.top, done)
        self._sum[:, :kept] = self._sum[:, count:]
        self._weight[:kept] = self._weight[count:]
        self._sum[:, kept:] = 0
        self._weight[kept:] = 0
        self.top += count
