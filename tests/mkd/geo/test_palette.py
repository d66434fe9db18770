"""Colours and ids against loops over pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mkd.geo.palette import ids_from_rgb, rgb_from_ids, screen_values

PALETTE = ((0, 0, 255), (255, 0, 0), (1, 2, 3))
IGNORED = ((0, 0, 0), (9, 9, 9))
STRAY = ((0, 255, 0), (255, 255, 255))


@given(st.lists(st.sampled_from(PALETTE + IGNORED + STRAY), min_size=1, max_size=30))
def test_ids_follow_the_palette_pixel_by_pixel(colours):
    """Each pixel gets the position of its colour, 255 when ignored or unknown; unknown ones are counted."""
    ids, unknown = ids_from_rgb(np.array(colours, np.uint8)[None], PALETTE, IGNORED)
    expected = [PALETTE.index(colour) if colour in PALETTE else 255 for colour in colours]
    assert ids.tolist() == [expected]
    assert unknown == {colour: colours.count(colour) for colour in STRAY if colour in colours}


@given(st.lists(st.sampled_from([0, 1, 2, 255]), min_size=1, max_size=30))
def test_colouring_and_reading_back_is_the_identity(values):
    """ids -> colours -> ids gives the same ids, ignored pixels included."""
    ids = np.array(values, np.uint8)[:, None]
    again, unknown = ids_from_rgb(rgb_from_ids(ids, PALETTE), PALETTE, [(0, 0, 0)])
    assert np.array_equal(again, ids)
    assert unknown == {}


def test_colours_next_to_each_other_are_kept_apart():
    """Colours that differ by one in one part are different, and no part spills into the next."""
    palette = [(0, 0, 255), (0, 1, 0), (1, 0, 0), (0, 255, 255)]
    ids, unknown = ids_from_rgb(np.array([palette], np.uint8), palette)
    assert ids.tolist() == [[0, 1, 2, 3]]
    assert unknown == {}


def test_an_id_without_colour_is_an_error():
    """An id above the palette is named, not painted."""
    with pytest.raises(ValueError, match=r"\[7\] have no colour"):
        rgb_from_ids(np.array([[0, 7]], np.uint8), PALETTE)


def test_a_colour_for_two_classes_is_an_error():
    """One colour cannot mean two classes, nor a class and 'ignored'."""
    rgb = np.zeros((1, 1, 3), np.uint8)
    with pytest.raises(ValueError, match="occurs twice"):
        ids_from_rgb(rgb, [(1, 1, 1), (1, 1, 1)])
    with pytest.raises(ValueError, match="occurs twice"):
        ids_from_rgb(rgb, [(1, 1, 1)], [(1, 1, 1)])


def test_grey_pixels_are_refused():
    """A two-dimensional array is no picture in colours."""
    with pytest.raises(ValueError, match="convert to RGB"):
        ids_from_rgb(np.zeros((2, 2), np.uint8), PALETTE)


def test_eight_bits_are_shown_as_they_are():
    """Values stay, means are rounded, and what is not known is black."""
    pixels = np.array([[[0, 7, 255], [1, 2, 3]]], np.uint8)
    known = np.array([[True, False]])
    assert screen_values(pixels, eight_bits=True).tolist() == pixels.tolist()
    assert screen_values(pixels + 0.4, known, eight_bits=True).tolist() == [[[0, 7, 255], [0, 0, 0]]]


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_other_types_are_stretched_between_percentiles(dtype):
    """2nd to 98th percentile of the known pixels of each band, whatever its unit; hot pixels and NaN do not count."""
    ramp = np.linspace(0, 1, 10_000).reshape(100, 100)
    scales = {"uint16": (900, 100), "int16": (900, -500), "float32": (0.02, 0.4)}[dtype]
    pixels = np.stack([ramp * scales[0] + scales[1], ramp * scales[0], np.full_like(ramp, 7)], 2).astype(
        dtype
    )
    pixels[0, :3] = np.nan if dtype == "float32" else 30_000
    known = np.ones((100, 100), bool)
    known[0, :3] = dtype == "float32"  # not finite is enough there
    shown = screen_values(pixels, known, eight_bits=False)
    assert shown.dtype == np.uint8
    assert (shown[0, :3] == 0).all()
    expected = 255 * np.clip((ramp - 0.02) / 0.96, 0, 1)
    for band in (0, 1):
        assert np.abs(shown[1:, :, band] - expected[1:]).max() < 2
    assert (shown[..., 2] == 0).all()
    ends = np.zeros(3), np.array([float(scales[0])] * 3)
    given = screen_values(pixels, known, eight_bits=False, ends=ends)
    assert np.abs(given[1:, :, 1] - 255 * ramp[1:]).max() < 2
    assert not screen_values(pixels, ~np.ones((100, 100), bool), eight_bits=False).any()
