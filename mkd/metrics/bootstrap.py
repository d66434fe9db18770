"""Intervals by the bootstrap: whole blocks, such as tiles or the rasters they were cut from, are drawn again."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95  # of the intervals
DRAWS, TOGETHER = 1000, 50  # bootstrap samples, and how many are drawn at once


def resampled_counts(blocks: NDArray[np.int64], draws: int, seed: int | Sequence[int]) -> NDArray[np.int64]:
    """Draw as many blocks as there are, with replacement; return how often each member counts, (draws, N).

    Args:
        blocks: (N,) number of the block of each member, from 0 on without gaps.
        draws: bootstrap samples.
        seed: of the draws; a number, or several that make one.

    Source: Davison and Hinkley 1997, "Bootstrap Methods and their Application", sections 2.2 and 3.8.
    """
    number = int(blocks.max()) + 1
    generator = np.random.default_rng(seed)
    times = generator.multinomial(number, np.full(number, 1 / number), draws)
    counts: NDArray[np.int64] = times[:, blocks]
    return counts


def resampled_sums(values: NDArray[np.float64], blocks: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Return the sum over the members in each of 1,000 bootstrap samples of blocks, (draws, K).

    Values of the same blocks and seed are summed over the same samples, so that they can be compared in pairs.

    Args:
        values: (N, K) of each member; floats, which BLAS multiplies.
        blocks: (N,) number of the block of each member, from 0 on without gaps.
        seed: of the draws.
    """
    # Some draws at a time: one number for each draw and member takes memory where there are many.
    parts = [
        resampled_counts(blocks, TOGETHER, (seed, part)).astype(np.float64) @ values
        for part in range(DRAWS // TOGETHER)
    ]
    return np.concatenate(parts)


def percentile_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 2.5th and the 97.5th percentile of bootstrap values (draws,), NaN left out; NaN where all are."""
    known = values[np.isfinite(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def normal_interval(estimate: float, values: NDArray[np.float64]) -> tuple[float, float]:
    """Return estimate -+ 1.96 standard deviations of its bootstrap values: for statistics that resampling biases."""
    spread = 1.96 * float(values.std(ddof=1))
    return estimate - spread, estimate + spread
