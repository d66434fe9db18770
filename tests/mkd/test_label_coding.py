"""Stored labels that are no class ids: one table against a slow look-up, pixel by pixel, and what an index may hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mkd.label_coding import LabelCoding

COLOURS = st.dictionaries(st.tuples(*[st.integers(0, 255)] * 3), st.sampled_from([0, 1, 2, 255]), max_size=6)


@given(
    st.dictionaries(st.integers(0, 255), st.sampled_from([0, 1, 2, 255])),
    st.booleans(),
    st.binary(min_size=12),
)
def test_values_against_a_slow_look_up(known, ignores, data):
    """Each pixel is what the mapping says; others are 255, or an error that names the value."""
    coding = LabelCoding("P", tuple(known.items()), ignores)
    pixels = np.frombuffer(data[:12], np.uint8).reshape(3, 4)
    unknown = [int(v) for v in pixels.ravel() if int(v) not in known]
    if unknown and not ignores:
        with pytest.raises(ValueError, match=rf"it has the value {unknown[0]}, which"):
            coding.to_ids(pixels)
        return
    expected = [[known.get(int(v), 255) for v in row] for row in pixels]
    np.testing.assert_array_equal(coding.to_ids(pixels), expected)
    assert coding.to_ids(pixels).dtype == np.uint8


@given(COLOURS, st.integers(0, 2**31))
def test_colours_against_a_slow_look_up(known, seed):
    """The same with three bytes a pixel."""
    values = tuple(((r << 16) + (g << 8) + b, target) for (r, g, b), target in known.items())
    coding = LabelCoding("RGB", values, ignores_others=True)
    choices = [*known, (1, 2, 3), (3, 2, 1)]
    rng = np.random.default_rng(seed)
    picked = [[choices[n] for n in row] for row in rng.integers(0, len(choices), (3, 4))]
    expected = [[known.get(colour, 255) for colour in row] for row in picked]
    np.testing.assert_array_equal(coding.to_ids(np.array(picked, np.uint8)), expected)


def test_an_unknown_colour_is_named():
    coding = LabelCoding("RGB", ((0, 0),))
    with pytest.raises(ValueError, match=r"it has the value colour \(1, 2, 3\), which"):
        coding.to_ids(np.array([[[0, 0, 0], [1, 2, 3]]], np.uint8))


def test_what_an_index_holds_comes_back():
    """As JSON has it, with lists for tuples; None stays None."""
    coding = LabelCoding("RGB", ((77, 1), (0, 255)), ignores_others=True)
    content = {**coding.to_json(), "ids": [[77, 1], [0, 255]]}
    assert LabelCoding.from_json(content, 2) == coding
    assert LabelCoding.from_json(None, 2) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mode": "CMYK"}, "allowed are L, P, RGB"),
        ({"ids": [[256, 0]]}, "a label's value"),
        ({"ids": [[0, 2]]}, r"the id 2, allowed are 0..1 and 255"),
        ({"ids": [[0, 1, 2]]}, "a list of 2 is needed"),
        ({"ids": [[0.0, 1]]}, "a label's value"),
        ({"ignores_others": 1}, "not true or false"),
    ],
)
def test_a_strangers_table_is_checked_value_by_value(change, reason):
    content = {"mode": "L", "ids": [[0, 1]], "ignores_others": False} | change
    with pytest.raises(ValueError, match=reason):
        LabelCoding.from_json(content, 2)
