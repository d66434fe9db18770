"""The interval of two models' difference against a slow paired bootstrap, and where it must and must not show one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mkd.metrics.confusion import ConfusionMatrix
from mkd.metrics.paired_difference import miou_difference


def matrices(seed, tiles, right):
    """Confusion matrices of tiles whose pixels are right with a probability that differs from tile to tile."""
    rng = np.random.default_rng(seed)
    hard = rng.uniform(-0.3, 0.3, tiles)
    found = torch.zeros(tiles, 3, 3, dtype=torch.int64)
    for n in range(tiles):
        truth = rng.integers(0, 3, 200)
        wrong = rng.random(200) > right + hard[n]
        np.add.at(found[n].numpy(), (truth, np.where(wrong, (truth + 1) % 3, truth)), 1)
    return found


def miou(matrix):
    whole = ConfusionMatrix(3)
    whole.matrix = matrix
    return whole.miou()


def test_as_the_slow_bootstrap():
    """Blocks of two tiles, drawn one by one, the same for both models."""
    ours, theirs = matrices(0, 20, 0.65), matrices(0, 20, 0.6)
    blocks = np.arange(20) // 2
    found = miou_difference(ours, theirs, blocks)
    assert found.miou == pytest.approx(miou(ours.sum(0)) - miou(theirs.sum(0)))
    rng, values = np.random.default_rng(5), []
    for _ in range(1500):
        tiles = np.concatenate([np.flatnonzero(blocks == b) for b in rng.integers(0, 10, 10)])
        values.append(miou(ours[tiles].sum(0)) - miou(theirs[tiles].sum(0)))
    assert (found.low, found.high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.006)


def test_pairs_show_what_single_intervals_hide():
    """A small gain on each tile shows, though tiles differ far more than the models; equal models show nothing."""
    ours, theirs = matrices(1, 30, 0.62), matrices(1, 30, 0.6)
    better = miou_difference(ours, theirs, np.arange(30))
    assert better.shown
    assert 0 < better.low < better.miou < better.high
    same = miou_difference(ours, ours, np.arange(30))
    assert (same.miou, same.low, same.high, same.shown) == (0, 0, 0, False)


@given(st.integers(0, 100))
def test_the_other_way_round(seed):
    """Model and reference change places: the sign changes, and nothing else."""
    ours, theirs = matrices(seed, 6, 0.7), matrices(seed + 1000, 6, 0.5)
    one, two = (miou_difference(*pair, np.arange(6)) for pair in ((ours, theirs), (theirs, ours)))
    assert (one.miou, one.low, one.high) == pytest.approx((-two.miou, -two.high, -two.low))
