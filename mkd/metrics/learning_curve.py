"""A power law through scores of several sizes, and what doubling the size would add by it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mkd.metrics.bootstrap import percentile_interval

RATES = (0.03, 6.0)  # least and largest exponent
TRIED, ROUNDS = 60, 4  # exponents at once, and how often the neighbours of the best are looked between
DRAWS = 500  # bootstrap samples of the seeds
LEAST = 3  # sizes: the law has three unknowns
POINTS = 40  # of the drawn curve
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """score(n) = limit - loss (n / scale)^-rate."""

    limit: float
    loss: float
    rate: float
    scale: float

    def at(self, sizes: Floats) -> Floats:
        """Return the scores of sizes above 0."""
        found: Floats = self.limit - self.loss * (sizes / self.scale) ** -self.rate
        return found


@dataclass(frozen=True)
class LearningCurve:
    """What the law says up to twice the largest size; shares.

    Attributes:
        sizes: ascending, of the drawn curve, the last twice the largest that was measured.
        scores: of the law there.
        low: lower ends of their 95 % intervals; None: one seed.
        high: upper ends.
        gain: what doubling the largest size adds.
        interval: the ends of its 95 % interval; None: one seed.
    """

    sizes: Floats
    scores: Floats
    low: Floats | None
    high: Floats | None
    gain: float
    interval: tuple[float, float] | None


def fit_power_law(sizes: Floats, scores: Floats) -> PowerLaw:
    """Return the power law of the least squares.

    ::

        min_{a, b, c} sum_k (s_k - (a - b (n_k / n_max)^-c))^2

    a and b of each c are a straight line's; the c with the smallest sum is looked for on grids, each between the best
    one's neighbours of the grid before. b may be negative: more may harm.

    Args:
        sizes: (K,) above 0, three different ones or more.
        scores: (K,).

    Source: Hestness et al. 2017, "Deep Learning Scaling is Predictable, Empirically", equation 1.
    """
    scale = float(sizes.max())
    low, high = RATES
    for _ in range(ROUNDS):
        rates = np.geomspace(low, high, TRIED)
        x = (sizes / scale)[None] ** -rates[:, None]  # (rates, K)
        apart, level = x - x.mean(axis=1, keepdims=True), scores - scores.mean()
        slope = (apart @ level) / (apart**2).sum(axis=1)
        best = int(((level - slope[:, None] * apart) ** 2).sum(axis=1).argmin())
        low, high = float(rates[max(best - 1, 0)]), float(rates[min(best + 1, TRIED - 1)])
    limit = float(scores.mean() - slope[best] * x[best].mean())
    return PowerLaw(limit, -float(slope[best]), float(rates[best]), scale)


def learning_curve(sizes: Sequence[float], scores: Floats, seed: int = 0) -> LearningCurve:
    """Fit the law to the means over seeds, and draw the seeds again for intervals; a seed keeps its scores together.

    Args:
        sizes: K of them; the law knows no size of 0.
        scores: (S,K) of S seeds.
        seed: of the draws.

    Raises:
        ValueError: fewer than three different sizes above 0.
    """
    n = np.asarray(sizes, np.float64)
    if len(set(n[n > 0].tolist())) < LEAST or (n <= 0).any():
        raise ValueError(
            f"sizes {[float(size) for size in n]}: a power law needs {LEAST} different sizes above 0, and no other"
        )
    grid = np.geomspace(n.min(), 2 * n.max(), POINTS)
    law = fit_power_law(n, scores.mean(axis=0))
    gain = _doubled(law)
    if len(scores) == 1:
        return LearningCurve(grid, law.at(grid), None, None, gain, None)
    rng = np.random.default_rng(seed)
    laws = [
        fit_power_law(n, scores[rng.integers(0, len(scores), len(scores))].mean(axis=0)) for _ in range(DRAWS)
    ]
    curves = np.array([each.at(grid) for each in laws])
    low, high = np.quantile(curves, [0.025, 0.975], axis=0)
    ends = percentile_interval(np.array([_doubled(each) for each in laws]))
    return LearningCurve(grid, law.at(grid), low, high, gain, ends)


def _doubled(law: PowerLaw) -> float:
    """Return the score at twice the largest size less that at it."""
    at = law.at(np.array([law.scale, 2 * law.scale]))
    return float(at[1] - at[0])
