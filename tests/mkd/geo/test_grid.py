"""Windows: full cover, and contact, each against a slow reference on small rasters."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mkd.geo.grid import Window, covering_windows, grid_start, touches

SIDES = st.integers(1, 40)
WINDOWS = st.builds(Window, st.integers(0, 12), st.integers(0, 12), st.integers(1, 6), st.integers(1, 6))


def painted(windows, height, width):
    """Count how often each pixel is covered."""
    counts = np.zeros((height, width), int)
    for row, col, tall, wide in windows:
        counts[row : row + tall, col : col + wide] += 1
    return counts


@given(SIDES, SIDES, st.integers(1, 15), st.integers(0, 14), st.integers(0, 14), st.integers(0, 14))
def test_covering_windows_cover_and_overlap(height, width, size, overlap, row, col):
    """Every pixel is covered, no window leaves the raster, neighbours overlap by at least `overlap`."""
    if overlap >= size:
        overlap = size - 1
    first = (row % (size - overlap), col % (size - overlap))
    windows = list(covering_windows(height, width, size, overlap, first))
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


TRANSFORMS = st.builds(
    lambda pixel, turn, x, y: (
        *(pixel * math.cos(turn), pixel * math.sin(turn), x),
        *(pixel * math.sin(turn), -pixel * math.cos(turn), y),
    ),
    st.sampled_from([0.03, 0.05, 0.3, 1.0]),
    st.sampled_from([0.0, 0.0, 0.5, math.pi]),
    st.integers(0, 7 * 10**5),
    st.integers(0, 6 * 10**6),
)


@given(TRANSFORMS, st.integers(0, 90), st.integers(0, 90), st.integers(4, 24), st.integers(0, 3))
def test_a_crop_has_the_windows_of_its_raster(transform, row, col, size, overlap):
    """Cut by whole pixels, a raster keeps the windows that lie inside the crop; at its edges at most one is added."""
    a, b, c, d, e, f = transform
    crop = (a, b, c + a * col + b * row, d, e, f + d * col + e * row)
    whole, part = (
        {
            (window.row, window.col)
            for window in covering_windows(200, 200, size, overlap, grid_start(place, size - overlap))
        }
        for place in (transform, crop)
    )
    seen = {(r + row, c + col) for r, c in part}
    last = 200 - size
    inside = {(r, c) for r, c in whole if row < r < last and col < c < last}
    assert {
        (r, c) for r, c in seen if row < r < last + row and col < c < last + col and max(r, c) < last
    } == inside
    corner = covering_windows(200, 200, size, overlap)
    assert len({r for r, _ in part}) <= len({window.row for window in corner}) + 1


def test_the_grid_begins_at_the_origin_of_the_crs():
    """By hand: pixels of 0.5 m whose corner is at (103, 250): the origin lies at column -206 and row 500."""
    assert grid_start((0.5, 0.0, 103.0, 0.0, -0.5, 250.0), 12) == (500 % 12, -206 % 12)
    assert grid_start((0.5, 0.0, 103.0, 0.0, -0.5, 250.0), 1) == (0, 0)
    assert grid_start(None, 12) == (0, 0)


@pytest.mark.parametrize("fraction", [0, 1 / 2, 1 / 3, 2 / 3, 0.1, 0.9, 1 / 4])
def test_what_a_double_rounds_does_not_move_the_grid(fraction):
    """Origins at simple fractions of a pixel, a millionth of a pixel to either side: the same start."""
    places = [
        grid_start(
            (0.03, 0.0, 0.03 * (10**7 + fraction + noise), 0.0, -0.03, 0.03 * (10**8 + fraction + noise)), 384
        )
        for noise in (-1e-6, 0.0, 1e-6)
    ]
    assert len(set(places)) == 1


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
