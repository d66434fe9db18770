"""The k-th smallest over ranks against sorting all values in one place."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mkd.losses.kth_value import kth_smallest
from mkd.losses.rank_sum import one_rank
from tests.helpers.training.shares import on_ranks

floats = st.one_of(
    st.floats(0, 1, width=32),
    st.floats(0, width=32, allow_nan=False),  # denormals and infinity too
    st.sampled_from([0.0, 0.5, 1.0, float(np.nextafter(np.float32(0.5), np.float32(1)))]),  # ties
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(floats, max_size=12), min_size=1, max_size=4), st.integers(1, 60))
def test_is_the_kth_of_all_values_on_every_rank(ranks, k):
    """Whatever lies where, each rank gets, to the bit, the k-th of the sorted whole, the largest beyond its end."""
    parts = [torch.tensor(values, dtype=torch.float32) for values in ranks]
    found = on_ranks(parts, lambda part, total: kth_smallest(part, k, total))
    everything = sorted(value for values in ranks for value in values)
    expected = everything[min(k, len(everything)) - 1] if everything else 0.0
    assert [f.item() for f in found] == [expected] * len(ranks)


@pytest.mark.parametrize("power", [0.001, 1.0, 40.0])
def test_is_that_of_torch(power):
    """On one rank it is torch.kthvalue to the bit, for values crowded at 1, even, and crowded at 0."""
    values = torch.rand(50_000, generator=torch.Generator().manual_seed(0)) ** power
    for k in (1, 2, 3_125, 49_999, 50_000):
        assert torch.equal(kth_smallest(values, k, one_rank), torch.kthvalue(values, k).values)


def test_not_a_number_is_the_largest():
    """A NaN of either sign comes after all numbers, as where values are sorted."""
    values = torch.tensor([np.nan, 0.25, -np.nan, 0.75])
    assert kth_smallest(values, 2, one_rank) == 0.75
    assert kth_smallest(values, 3, one_rank).isnan()


def test_large_counts_are_exact():
    """More equal values than float32 can count (2^24) are all counted."""
    values = torch.full((2**24 + 3,), 0.5)
    values[-1] = 0.75
    assert kth_smallest(values, 2**24 + 2, one_rank) == 0.5
    assert kth_smallest(values, 2**24 + 3, one_rank) == 0.75
