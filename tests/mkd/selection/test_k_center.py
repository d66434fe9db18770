"""Greedy k-centre against a slow loop, its guarantee, and neighbours that are never both chosen."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mkd.selection.k_center import greedy_k_center


def alone(count):
    return [np.array([], np.int64)] * count


def slow(points, count, neighbours, chosen):
    """Farthest first with plain lists: all distances again for each step."""
    found = list(chosen)
    while len(found) < count:
        free = [
            n for n in range(len(points)) if n not in found and not any(n in neighbours[m] for m in found)
        ]
        if not free:
            break
        near = {
            n: min(sum((a - b) ** 2 for a, b in zip(points[n], points[m], strict=True)) for m in found)
            for n in free
        }
        found.append(max(free, key=lambda n: (near[n], -n)))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_as_the_slow_loop(seed):
    """The same points in the same order, with neighbours and with points that are chosen already."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(14, 3))
    links = [set() for _ in points]
    for a, b in rng.integers(0, 14, (10, 2)).tolist():
        links[a].add(b)
        links[b].add(a)
    arrays = [np.array(sorted(group), np.int64) for group in links]
    assert greedy_k_center(points, 6, arrays, first=3) == slow(points.tolist(), 6, links, [3])
    assert greedy_k_center(points, 6, alone(14), [1, 5]) == slow(points.tolist(), 6, [()] * 14, [1, 5])


@given(st.integers(0, 10_000), st.integers(1, 4))
def test_at_most_twice_the_least_radius(seed, count):
    """Gonzalez' guarantee, against every choice of centres."""
    points = np.random.default_rng(seed).normal(size=(8, 2))

    def radius(centres):
        apart = np.linalg.norm(points[:, None] - points[list(centres)], axis=2)
        return apart.min(axis=1).max()

    best = min(radius(centres) for centres in itertools.combinations(range(8), count))
    assert radius(greedy_k_center(points, count, alone(8))) <= 2 * best + 1e-9


def test_fewer_where_none_is_free():
    """All are neighbours of each other: one comes back; of no points none."""
    everyone = [np.arange(4)] * 4
    assert greedy_k_center(np.zeros((4, 1)), 3, everyone) == [0]
    assert greedy_k_center(np.zeros((0, 2)), 3, []) == []


def test_equal_points_are_all_taken_once():
    """Where all features are equal each point is still taken once."""
    assert sorted(greedy_k_center(np.ones((3, 2)), 5, alone(3))) == [0, 1, 2]
