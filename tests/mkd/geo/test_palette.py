"""Colours and ids against loops over pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mkd.geo.palette import ids_from_rgb, rgb_from_ids

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
