"""The streamed blend against a slow full-array mean, and the laws it must keep for any tiling."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mkd.geo.blend import BandBlender, window_weight
from mkd.geo.grid import Window, covering_windows

FLOOR = 1e-3


def slow_weight(index, length):
    return FLOOR + (1 - FLOOR) * math.sin(math.pi * (index + 0.5) / length) ** 2


def slow_blend(height, width, windows_and_values):
    """Weighted mean by the definition: pixel by pixel, whole arrays, float64."""
    channels = windows_and_values[0][1].shape[0]
    total, weights = np.zeros((channels, height, width)), np.zeros((height, width))
    for window, values in windows_and_values:
        for i in range(window.height):
            for j in range(window.width):
                w = slow_weight(i, window.height) * slow_weight(j, window.width)
                total[:, window.row + i, window.col + j] += w * values[:, i, j].astype(np.float64)
                weights[window.row + i, window.col + j] += w
    return total / weights


@st.composite
def tilings(draw):
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    size = draw(st.integers(1, 24))
    return height, width, size, draw(st.integers(0, size - 1))


def random_predictions(height, width, size, overlap, channels, seed):
    rng = np.random.default_rng(seed)
    windows = covering_windows(height, width, size, overlap)
    return [(w, rng.random((channels, w.height, w.width), np.float32)) for w in windows]


def streamed(height, width, size, channels, predictions):
    blender = BandBlender(height, width, channels, size)
    return [(band.row, band.values.copy()) for band in blender.blend(predictions)]


@pytest.mark.parametrize(
    ("height", "width", "size", "overlap"), [(23, 17, 8, 3), (9, 30, 9, 0), (5, 4, 16, 7), (20, 20, 10, 9)]
)
def test_equals_the_full_array_mean(height, width, size, overlap):
    """Streaming changes nothing: the bands, stacked, are the weighted mean over whole arrays."""
    predictions = random_predictions(height, width, size, overlap, channels=3, seed=1)
    bands = streamed(height, width, size, 3, predictions)
    stacked = np.concatenate([values for _, values in bands], axis=1)
    np.testing.assert_allclose(stacked, slow_blend(height, width, predictions), rtol=2e-6)


@settings(max_examples=60, deadline=None)
@given(tilings())
def test_every_row_once_in_order(tiling):
    """Bands start where the last one ended, from row 0 to the last, each as wide as the raster."""
    height, width, size, overlap = tiling
    bands = streamed(height, width, size, 2, random_predictions(height, width, size, overlap, 2, seed=2))
    rows = [row + k for row, values in bands for k in range(values.shape[1])]
    assert rows == list(range(height))
    assert all(values.shape[::2] == (2, width) for _, values in bands)


@settings(max_examples=60, deadline=None)
@given(tilings(), st.floats(1 / 64, 1.0, width=32))
def test_weights_of_a_pixel_sum_to_one(tiling, constant):
    """A constant field stays that constant, so the weights that reach any pixel sum to 1."""
    height, width, size, overlap = tiling
    windows = covering_windows(height, width, size, overlap)
    same = ((w, np.full((1, w.height, w.width), constant, np.float32)) for w in windows)
    for _, values in streamed(height, width, size, 1, same):
        np.testing.assert_allclose(values, constant, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(tilings())
def test_probabilities_stay_probabilities(tiling):
    """Each blended value lies between the least and the greatest value given, and channels still sum to 1."""
    height, width, size, overlap = tiling
    predictions = random_predictions(height, width, size, overlap, 3, seed=3)
    for _, values in predictions:
        values /= values.sum(axis=0)
    for _, values in streamed(height, width, size, 3, predictions):
        assert values.min() >= 0
        np.testing.assert_allclose(values.sum(axis=0), 1, rtol=1e-5)


@pytest.mark.parametrize("height", [64, 640, 2560])
def test_memory_does_not_grow_with_height(height):
    """The rows held are the window's rows, and no band is longer, however tall the raster is."""
    blender = BandBlender(height, 8, 1, 16)
    windows = covering_windows(height, 8, 16, 4)
    lengths = [
        band.values.shape[1]
        for band in blender.blend((w, np.ones((1, w.height, w.width), np.float32)) for w in windows)
    ]
    assert blender.rows_held == 16
    assert blender._sum.nbytes + blender._weight.nbytes == 2 * 16 * 8 * 4
    assert max(lengths) <= 16


def test_bands_leave_as_soon_as_they_can():
    """A band is out before the next row of windows is asked for a second window."""
    asked = []

    def predictions():
        for window in covering_windows(30, 20, 10, 2):
            asked.append(window)
            yield window, np.zeros((1, 10, 10), np.float32)

    first = next(BandBlender(30, 20, 1, 10).blend(predictions()))
    assert (first.row, first.values.shape) == (0, (1, 8, 20))
    assert [w.row for w in asked] == [0, 0, 0, 8]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (8, 8), (7, 512)])
def test_window_weight_by_definition(height, width):
    """The weight is the product of raised cosines: positive everywhere, symmetric, largest in the middle."""
    weight = window_weight(height, width)
    expected = [[slow_weight(i, height) * slow_weight(j, width) for j in range(width)] for i in range(height)]
    np.testing.assert_allclose(weight, expected, rtol=1e-6)
    np.testing.assert_allclose(weight, weight[::-1, ::-1], rtol=1e-6)
    assert weight.min() > 0
    assert weight[height // 2, width // 2] == pytest.approx(weight.max(), rel=1e-6)


def test_seam_is_continuous():
    """Where two windows that disagree overlap, the blend goes from one value to the other without a jump."""
    size, overlap = 64, 32
    predictions = [
        (w, np.full((1, 1, size), float(w.col > 0), np.float32))
        for w in covering_windows(1, 2 * size - overlap, size, overlap)
    ]
    (_, values), *_ = streamed(1, 2 * size - overlap, 1, 1, predictions)
    steps = np.diff(values[0, 0])
    assert values[0, 0, 0] == 0
    assert values[0, 0, -1] == 1
    assert steps.min() >= -1e-6
    assert steps.max() < 0.1


def test_a_hole_in_the_tiling_is_our_mistake():
    """Windows that leave pixels uncovered are refused instead of dividing by zero."""
    holes = [(Window(0, 0, 4, 4), np.ones((1, 4, 4), np.float32))]
    with pytest.raises(AssertionError, match="not fully covered"):
        list(BandBlender(4, 8, 1, 4).blend(holes))
