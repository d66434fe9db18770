"""Bootstrap counts by block, and intervals that hold the truth about as often as they say."""

import numpy as np
import pytest

from mkd.metrics.bootstrap import normal_interval, percentile_interval, resampled_counts


def test_blocks_are_drawn_whole():
    """Members of a block count alike; as many blocks are drawn as there are."""
    blocks = np.array([0, 1, 1, 2, 0])
    counts = resampled_counts(blocks, 50, 3)
    assert counts.shape == (50, 5)
    assert (counts[:, 0] == counts[:, 4]).all()
    assert (counts[:, 1] == counts[:, 2]).all()
    assert (counts[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert np.array_equal(counts, resampled_counts(blocks, 50, 3))
    assert not np.array_equal(counts, resampled_counts(blocks, 50, 4))


@pytest.mark.parametrize("kind", ["percentile", "normal"])
def test_the_mean_of_known_data(kind):
    """Of 200 samples of 40 numbers about 95 % of the intervals hold the true mean."""
    held = 0
    for seed in range(200):
        x = np.random.default_rng(seed).normal(size=40)
        counts = resampled_counts(np.arange(40), 300, seed)
        values = counts @ x / 40
        low, high = percentile_interval(values) if kind == "percentile" else normal_interval(x.mean(), values)
        held += low <= 0 <= high
    assert 176 <= held <= 199


def test_values_that_are_not_known():
    """NaN is left out; of nothing but NaN the interval is NaN."""
    assert percentile_interval(np.array([np.nan, 2.0, 2.0])) == (2.0, 2.0)
    assert np.isnan(percentile_interval(np.array([np.nan]))).all()
