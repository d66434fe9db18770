"""Boundary F1 against loops over pixels and over pairs of boundary pixels."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mkd.metrics.boundary import boundary_counts, boundary_f1, boundary_pixels


def slow_boundary(ids, c):
    """Pixels of class c with a neighbour of another class, ignored ones apart."""
    height, width = len(ids), len(ids[0])
    found = []
    for i in range(height):
        for j in range(width):
            around = [(i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)]
            near = [ids[a][b] for a, b in around if 0 <= a < height and 0 <= b < width]
            if ids[i][j] == c and any(n not in (c, 255) for n in near):
                found.append((i, j))
    return found


def slow_f1(guess, truth, c, tolerance):
    guess = [
        [255 if t == 255 else g for g, t in zip(*rows, strict=True)]
        for rows in zip(guess, truth, strict=True)
    ]
    ours, theirs = slow_boundary(guess, c), slow_boundary(truth, c)
    if not theirs:
        return None

    def near(ones, others):
        return (
            sum(any(math.dist(a, b) <= tolerance for b in others) for a in ones) / len(ones) if ones else 0.0
        )

    p, r = near(ours, theirs), near(theirs, ours)
    return 2 * p * r / (p + r) if p + r else 0.0


@settings(max_examples=40)
@given(st.integers(0, 100_000), st.integers(0, 4))
def test_as_the_loop_over_pixels(seed, tolerance):
    """Each class's F1, at any tolerance, with ignored pixels."""
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.choice([0, 1, 2, 255], (4, 5), p=[0.4, 0.3, 0.1, 0.2]), np.ones((2, 2), int)).astype(
        np.uint8
    )
    guess = np.where(rng.random(truth.shape) < 0.2, rng.integers(0, 3, truth.shape), truth % 255).astype(
        np.uint8
    )
    counts = boundary_counts(torch.from_numpy(guess)[None], torch.from_numpy(truth)[None], 3, tolerance)
    for c, value in enumerate(boundary_f1(counts).tolist()):
        expected = slow_f1(guess.tolist(), truth.tolist(), c, tolerance)
        assert (math.isnan(value) and expected is None) or value == pytest.approx(expected)


def test_a_moved_edge():
    """An edge that is 2 pixels off is met with a tolerance of 2, and missed with 1."""
    truth, guess = torch.zeros(1, 8, 12, dtype=torch.uint8), torch.zeros(1, 8, 12, dtype=torch.uint8)
    truth[..., 4:], guess[..., 6:] = 1, 1
    assert boundary_f1(boundary_counts(guess, truth, 2, 2)).tolist() == [1.0, 1.0]
    assert boundary_f1(boundary_counts(guess, truth, 2, 1)).tolist() == [0.0, 0.0]


def test_no_edge_at_the_border_or_beside_ignored_pixels():
    """One class all over, and half of it ignored: no boundary, and so no F1."""
    ids = torch.zeros(1, 6, 6, dtype=torch.uint8)
    ids[:, 3:] = 255
    assert not boundary_pixels(ids, 2).any()
    assert boundary_f1(boundary_counts(ids, ids, 2)).isnan().all()


def test_batches_add_up():
    """Counts of two tiles together are the sum of theirs."""
    rng = np.random.default_rng(0)
    guess, truth = (torch.from_numpy(rng.integers(0, 3, (2, 9, 7)).astype(np.uint8)) for _ in range(2))
    parts = [boundary_counts(guess[n : n + 1], truth[n : n + 1], 3) for n in range(2)]
    assert torch.equal(boundary_counts(guess, truth, 3), parts[0] + parts[1])
