"""Representatives: one a cluster, far apart on the ground, never two neighbours, the same for the same seed."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mkd.selection.representatives import spread_representatives, standardise


def alone(count):
    return [np.array([n]) for n in range(count)]


def test_one_of_each_cluster_largest_first():
    """Three clusters of 12, 8 and 4 far apart in the features: one tile each, in the order of their sizes."""
    rng = np.random.default_rng(0)
    kind = np.repeat([0, 1, 2], [8, 12, 4])
    features = np.eye(3)[kind] * 100 + rng.normal(size=(24, 3))
    found = spread_representatives(features, np.full((24, 3), np.nan), alone(24), 3, seed=0)
    assert kind[found].tolist() == [1, 0, 2]


def test_without_places_the_tile_nearest_to_the_centroid():
    """One cluster, no places: the middle of a line."""
    line = np.arange(9.0)[:, None]
    assert spread_representatives(line, np.full((9, 3), np.nan), alone(9), 1, seed=0) == [4]


def test_the_ground_decides_among_those_near_the_centroid():
    """The second cluster's tiles are all alike; the one farthest from the first cluster's tile is taken."""
    features = np.repeat([[0.0], [9.0]], [10, 8], axis=0)
    features[:10] += np.linspace(-1, 1, 10)[:, None] * 0.1
    positions = np.zeros((18, 3))
    positions[10:, 0] = [1, 7, 2, 3, 4, 5, 6, 0.5]
    first, second = spread_representatives(features, positions, alone(18), 2, seed=0)
    assert first < 10
    assert second == 11


def test_a_quarter_of_a_cluster_is_near():
    """A tile far from its centroid is not taken for its place on the ground."""
    features = np.concatenate([np.zeros(9), [9.0] * 7, [12.0]])[:, None]
    positions = np.zeros((17, 3))
    positions[16, 0] = 1000.0
    assert 16 not in spread_representatives(features, positions, alone(17), 2, seed=0)


def test_a_constant_feature_is_left_out():
    """Standardised features have mean 0 and deviation 1; a constant dimension is 0, not NaN."""
    x = standardise(np.stack([np.arange(5.0), np.full(5, 3.0)], axis=1))
    assert np.allclose(x.mean(axis=0), 0)
    assert np.allclose(x.std(axis=0), [1, 0])


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_no_neighbours_and_a_maximal_choice(seed, count):
    """Chosen tiles of a grid never touch, come once; fewer than asked for only where no free tile is left."""
    rng = np.random.default_rng(seed)
    cells = np.array([(r, c) for r in range(5) for c in range(6)])
    near = (np.abs(cells[:, None] - cells).max(axis=2) <= 1)[:30]
    neighbours = [np.flatnonzero(row) for row in near]
    features, positions = rng.normal(size=(30, 4)), np.column_stack([cells, np.zeros(30)]).astype(float)
    found = spread_representatives(features, positions, neighbours, count, seed)
    assert found == spread_representatives(features, positions, neighbours, count, seed)
    assert len(set(found)) == len(found) <= count
    assert near[np.ix_(found, found)].sum() == len(found)
    if len(found) < count:
        assert near[found].any(axis=0).all()
