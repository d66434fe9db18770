"""A hash that sees every bit, place and order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mkd.distributed.checksum import digest

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


def of(*tensors):
    return int(digest(tensors))


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=40), st.data())
def test_one_change_is_always_seen(values, data):
    """Another value in one place is another hash; the same values are the same hash."""
    t = torch.tensor(values)
    assert of(t) == of(t.clone())
    place = data.draw(st.integers(0, len(values) - 1))
    other = t.clone()
    other[place] += data.draw(st.sampled_from([1, -1, 2**31, 2**62]))
    assert of(t) != of(other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_last_bit_of_each_type_counts(dtype):
    """A flipped lowest bit of the last value is seen in any type."""
    t = torch.ones(7).to(dtype)
    other = t.clone()
    other.view(torch.uint8)[-t.element_size()] ^= 1
    assert of(t) != of(other)


def test_order_counts():
    """Swapped values, swapped tensors, a moved border: all are other hashes."""
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0])
    hashes = [
        of(a, b),
        of(b, a),
        of(a.flip(0), b),
        of(torch.cat([a, b])),
        of(a),
        of(a, b, torch.empty(0)),
        of(),
    ]
    assert len(set(hashes)) == len(hashes)


def test_layout_does_not_count():
    """Channels-last weights hash like contiguous ones: values are read in their logical order."""
    t = torch.randn(2, 3, 4, 5)
    assert of(t) == of(t.contiguous(memory_format=torch.channels_last))


def test_signed_zeros_and_nans_are_bits():
    """-0 and 0 differ; a NaN equals itself."""
    assert of(torch.tensor(0.0)) != of(torch.tensor(-0.0))
    assert of(torch.tensor(torch.nan)) == of(torch.tensor(torch.nan))
