"""The k-th smallest of values that are spread over ranks, exactly, by counting the digits of their bits."""

import torch
from torch import Tensor

from mkd.losses.rank_sum import RankSum

# The bits of floats >= 0, read as integers, are in the order of the floats: 31 bits, in digits of 11, 10 and 10.
SHIFTS = (20, 10, 0)
BINS = 2048


def kth_smallest(values: Tensor, k: int, total: RankSum) -> Tensor:
    """Return the k-th smallest of the values of all ranks; the largest when there are fewer than k.

    A radix selection from the highest digit to the lowest: each round counts, over all ranks, the next digit of
    the values that share the digits found so far; the digit at which the count reaches k is the next one found.
    Three sums of 16 KiB over the ranks, in which each rank waits for the others; nothing waits for the device.

    Args:
        values: float32 (N,), all >= 0, infinity for what does not count; N may be 0 and may differ between ranks.
        k: >= 1, the same on all ranks.
        total: sums a tensor over the ranks.

    Returns:
        Scalar float32, bit for bit one of the values; 0 when no rank has any.

    Source: radix selection from the most significant digit (Knuth, The Art of Computer Programming 3, 5.2.5).
    """
    bits = values.detach().contiguous().view(torch.int32) & 0x7FFFFFFF  # a NaN's sign is not to count
    found = torch.zeros((), dtype=torch.int32, device=values.device)
    left = torch.full((), k, device=values.device)
    for shift in SHIFTS:
        # What is smaller than the digits found gives a negative digit; what is larger, one behind the k-th.
        counts = total(_histogram((bits - found) >> shift))
        upto = counts.cumsum(0)
        left = left.minimum(upto[-1])
        digit = torch.searchsorted(upto, left)
        left = left - upto.take(digit) + counts.take(digit)
        found = found + (digit << shift).int()
    return found.view(torch.float32)


def _histogram(digits: Tensor) -> Tensor:
    """Count 0 .. BINS - 1, int64, and leave out other values; float64 counts exactly, and `histc` does not wait."""
    return torch.histc(digits.double(), BINS, 0, BINS).long()
