"""Windows: full cover, and contact, each against a slow reference on small rasters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mkd.geo.grid import Window, covering_windows, touches

SIDES = st.integers(1, 40)
WINDOWS = st.builds(Window, st.integers(0, 12), st.integers(0, 12), st.integers(1, 6), st.integers(1, 6))


def painted(windows, height, width):
    """Count how often each pixel is covered."""
    counts = np.zeros((height, width), int)
    for row, col, tall, wide in windows:
        counts[row : row + tall, col : col + wide] += 1
    return counts


@given(SIDES, SIDES, st.integers(1, 15), st.integers(0, 14))
def test_covering_windows_cover_and_overlap(height, width, size, overlap):
    """Every pixel is covered, no window leaves the raster, neighbours overlap by at least `overlap`."""
    if overlap >= size:
        overlap = size - 1
    windows = list(covering_windows(height, width, size, overlap))
    assert painted(windows, height, width).min() >= 1
    assert painted(windows, height, width).shape == (height, width)
    for row, col, tall, wide in windows:
        assert (tall, wide) == (min(size, height), min(size, width))
        assert row >= 0
        assert col >= 0
        assert row + tall <= height
        assert col + wide <= width
    assert windows == sorted(set(windows)), "row-major, none twice"
    starts = sorted({window.row for window in windows})
    assert all(low + size - high >= overlap for low, high in zip(starts, starts[1:], strict=False))


def test_covering_windows_shift_the_last_one_back():
    """On 10 pixels, windows of 4 with overlap 1 start at 0, 3 and 6: the last ends at the edge."""
    assert [window.col for window in covering_windows(4, 10, 4, 1)] == [0, 3, 6]
    assert [window.col for window in covering_windows(4, 11, 4, 1)] == [0, 3, 6, 7]


def test_small_raster_gives_one_small_window():
    """A raster below the window's size is one window of its own size."""
    assert list(covering_windows(3, 5, 8, 2)) == [Window(0, 0, 3, 5)]


@given(WINDOWS, WINDOWS)
def test_touching_means_no_free_pixel_between(a, b):
    """Two windows touch when one, grown by a pixel on each side, shares a pixel with the other."""
    grown = {
        (r, c) for r in range(a.row - 1, a.row + a.height + 1) for c in range(a.col - 1, a.col + a.width + 1)
    }
    other = {(r, c) for r in range(b.row, b.row + b.height) for c in range(b.col, b.col + b.width)}
    assert touches(a, b) == bool(grown & other)
    assert touches(a, b) == touches(b, a)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: covering_windows(10, 10, 0, 0), "size is 0"),
        (lambda: covering_windows(0, 10, 4, 0), "height is 0"),
        (lambda: covering_windows(10, 10, 4, 4), "overlap 4"),
        (lambda: covering_windows(10, 10, 4, -1), "overlap -1"),
    ],
)
def test_impossible_numbers_are_named(call, words):
    """A size, stride or overlap that cannot be is an error at the call, not at the first window."""
    with pytest.raises(ValueError, match=words):
        call()
