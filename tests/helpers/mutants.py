"""Mutants for fuzzing: values, mappings and bytes that differ somewhere from good ones."""

import contextlib
import json
from copy import deepcopy

from hypothesis import strategies as st

ODD = st.sampled_from(
    [
        1e30,
        1e308,
        -1,
        0,
        10**30,
        2**63,
        True,
        None,
        "",
        "x",
        "../x",
        "[red]",
        "\0",
        "\ud800",
        [],
        {},
        [[[]]],
        float("inf"),
    ]
    + [float("nan"), ["a"] * 300, "9" * 300, "${oc.env:HOME}", "/vsicurl/x", "hf-hub:x/y"]
)
VALUES = st.recursive(
    ODD,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=3), inside, max_size=3),
    max_leaves=6,
)


def places(content, path=()):
    """List the paths of all values in nested lists and mappings."""
    found = [path] if path else []
    pairs = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for key, value in pairs:
        found += places(value, (*path, key))
    return found


@st.composite
def mutants(draw, content):
    """Draw a copy of nested lists and mappings in which some values are others, or missing."""
    copy = json.loads(json.dumps(content))
    for path in draw(st.lists(st.sampled_from(places(copy)), min_size=1, max_size=3)):
        place = copy
        with contextlib.suppress(KeyError, IndexError, TypeError):  # an earlier change has taken it away
            for key in path[:-1]:
                place = place[key]
            if draw(st.booleans()) or not isinstance(place, dict):
                place[path[-1]] = deepcopy(draw(VALUES))  # a later change must not change what others share
            else:
                del place[path[-1]]
    return copy


@st.composite
def damaged(draw, data):
    """Draw bytes that are changed, cut or repeated somewhere."""
    changed = bytearray(data)
    for place, value in draw(
        st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=6)
    ):
        changed[place] = value
    start, stop = sorted(draw(st.tuples(st.integers(0, len(data)), st.integers(0, len(data)))))
    return bytes(draw(st.sampled_from([changed, changed[:start], changed[:stop] + changed[start:]])))
