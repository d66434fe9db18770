"""Planning of splits: contact and leakage against slow references, shares near what blocks allow."""

from collections import Counter
from itertools import product

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from mkd.geo.grid import Window
from shards.splitting.blocks import assign_blocks, draw_few_shots, split_places
from shards.splitting.neighbours import TilePlace, touching
from shards.splitting.units import block_of
from tests.helpers.shards import whole_windows

FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}


def tiles(height, width, size, stride, sources="a"):
    """Cut rasters of one size."""
    return [
        TilePlace(f"{source}{window.row}_{window.col}", source, window)
        for source in sources
        for window in whole_windows(height, width, size, stride)
    ]


def apart(a, b):
    """Say whether no pixel of one tile, grown by one, is a pixel of the other: the slow way."""
    if a.source != b.source:
        return True
    if a.window is None or b.window is None:
        return False
    rows = range(a.window.row - 1, a.window.row + a.window.height + 1)
    cols = range(a.window.col - 1, a.window.col + a.window.width + 1)
    inside = product(
        range(b.window.row, b.window.row + b.window.height),
        range(b.window.col, b.window.col + b.window.width),
    )
    return not any(row in rows and col in cols for row, col in inside)


WINDOWS = st.none() | st.builds(
    Window, st.integers(0, 30), st.integers(0, 30), st.integers(1, 9), st.integers(1, 9)
)
PLACES = st.lists(st.tuples(st.sampled_from("abc"), WINDOWS), max_size=12).map(
    lambda entries: [
        TilePlace(str(number), source, window) for number, (source, window) in enumerate(entries)
    ]
)


@given(PLACES, PLACES)
def test_touching_finds_exactly_the_tiles_that_are_not_apart(some, others):
    """The search by cells equals comparing each tile with each, for windows of any size and whole images."""
    expected = {tile.key for tile in some if any(not apart(tile, other) for other in others)}
    assert touching(some, others) == expected


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([(4, 4), (4, 2), (4, 3)]),
    st.integers(4, 14),
    st.integers(0, 5),
    st.sampled_from(["a", "ab"]),
)
def test_no_tile_touches_a_tile_of_another_part(tiling, block, seed, sources):
    """For any tiling and block: parts are disjoint, never in contact, and all other tiles are counted."""
    places = tiles(40, 33, *tiling, sources=sources)
    try:
        parts = split_places(places, block, FRACTIONS, seed)
    except ValueError:  # too few blocks, or none left: see test_too_few_blocks_...
        reject()  # hypothesis complains when most of them are
    by_key = {place.key: place for place in places}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        pairs = product(parts.keys[one], parts.keys[other])
        assert all(apart(by_key[first], by_key[second]) for first, second in pairs)
    used = [key for keys in parts.keys.values() for key in keys]
    assert len(used) == len(set(used))
    assert len(used) + sum(parts.dropped.values()) == len(places)
    order = [place.key for place in places]
    assert all(keys == sorted(keys, key=order.index) for keys in parts.keys.values())


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 12), st.integers(1, 30))
def test_a_block_holds_a_tile_or_it_straddles(row, col, size, block):
    """A tile belongs to a block when all its pixels do."""
    place = TilePlace("x", "s", Window(row, col, size, size))
    blocks = {(r // block, c // block) for r in range(row, row + size) for c in range(col, col + size)}
    assert block_of(place, block) == (("s", *blocks.pop()) if len(blocks) == 1 else None)


@given(st.lists(st.integers(1, 50), min_size=3, max_size=40), st.integers(0, 3))
def test_shares_come_within_one_block_of_the_fractions(sizes, seed):
    """Each part misses its share by at most the largest block, unless it had to be filled with one block."""
    units = {("s", number, 0): size for number, size in enumerate(sizes)}
    parts = assign_blocks(units, FRACTIONS, seed)
    total, got = sum(sizes), Counter[str]()
    for unit, part in parts.items():
        got[part] += units[unit]
    assert set(parts) == set(units), "each block has a part"
    assert set(got) == set(FRACTIONS), "no part is empty"
    for part, share in FRACTIONS.items():
        assert abs(got[part] - share * total) <= 2 * max(sizes)


def test_equal_blocks_meet_the_fractions_exactly():
    """Ten equal blocks go 6, 2, 2; which of them depends on the seed, and only on it."""
    units = {("s", number, 0): 5 for number in range(10)}
    draws = [assign_blocks(units, FRACTIONS, seed) for seed in range(20)]
    assert all(Counter(parts.values()) == {"train": 6, "val": 2, "test": 2} for parts in draws)
    assert len({tuple(sorted(parts.items())) for parts in draws}) > 10
    assert draws[3] == assign_blocks(dict(reversed(units.items())), FRACTIONS, 3)


def test_the_draw_that_loses_fewest_tiles_is_kept():
    """On 8 x 8 blocks the kept split loses fewer tiles than a single draw does on average."""
    places = tiles(64, 64, 2, 2)
    kept = sum(len(keys) for keys in split_places(places, 8, FRACTIONS, 0).keys.values())
    sizes = Counter(block_of(place, 8) for place in places)
    singles = []
    for seed in range(20):
        part_of = assign_blocks(sizes, FRACTIONS, seed)
        lost = 0
        parts = {part: [p for p in places if part_of[block_of(p, 8)] == part] for part in FRACTIONS}
        lost += len(touching(parts["val"], parts["test"]))
        lost += len(touching(parts["train"], parts["test"] + parts["val"]))
        singles.append(len(places) - lost)
    assert kept > sum(singles) / len(singles)


def test_too_few_blocks_and_parts_without_tiles_are_told():
    """Two sources cannot make three parts; blocks of one tile's width leave nothing for training."""
    with pytest.raises(ValueError, match="2 blocks or sources cannot fill 3 parts"):
        split_places(tiles(8, 8, 4, 4, "ab"), None, FRACTIONS, 0)
    with pytest.raises(ValueError, match=r"no tile is left for (train|val)"):
        split_places(tiles(8, 8, 4, 4), 4, FRACTIONS, 0)


@given(st.sets(st.text(min_size=1, max_size=4), min_size=4, max_size=20), st.integers(0, 5))
def test_few_shot_draws_are_nested(keys, seed):
    """For one seed each smaller draw is part of each larger one, whatever the order of the keys."""
    draws = [draw_few_shots(sorted(keys), number, seed) for number in range(1, len(keys) + 1)]
    assert [len(chosen) for chosen in draws] == list(range(1, len(keys) + 1))
    assert all(small < large for small, large in zip(draws, draws[1:], strict=False))
    assert draws[1] == draw_few_shots(sorted(keys, reverse=True), 2, seed)


def test_few_shot_draws_are_even():
    """Over many seeds each key is drawn about equally often: 5 of 20 is a quarter."""
    keys = [f"k{number}" for number in range(20)]
    counts = Counter(key for seed in range(400) for key in draw_few_shots(keys, 5, seed))
    assert set(counts) == set(keys)
    assert all(60 < counts[key] < 140 for key in keys)


@pytest.mark.parametrize("number", [0, 21, -1])
def test_more_shots_than_tiles_are_refused(number):
    """The number found is told."""
    with pytest.raises(ValueError, match=rf"--labelled {number}: .* are 20, choose 1..20"):
        draw_few_shots([str(key) for key in range(20)], number, 0)
