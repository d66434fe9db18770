"""How far candidates lie from a target in the features of the source network, with bootstrap intervals."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mkd.metrics.bootstrap import normal_interval, resampled_counts
from mkd.transferability.distances import frechet_distance, median_bandwidth, rbf_kernel, squared_mmd

Floats = NDArray[np.float64]
DRAWS = 100  # bootstrap samples of a distance


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def measure_distances(
    target: Floats, candidates: Mapping[str, Floats], seed: int
) -> dict[str, tuple[Estimate, Estimate]]:
    """Return the Frechet distance and the squared MMD of each candidate to the target.

    The kernel's bandwidth is one for all, the median over the tiles of all domains. Intervals: tiles are drawn again;
    estimate -+ 1.96 standard deviations, because resampling shifts the Frechet distance.

    Args:
        target: (N,F) features of its tiles.
        candidates: by name, (N,F) each.
        seed: of the bootstrap samples.
    """
    width = median_bandwidth(np.concatenate([target, *candidates.values()]))
    k_target = rbf_kernel(target, target, width)
    found = {}
    for number, (name, x) in enumerate(candidates.items()):
        kernels = rbf_kernel(x, x, width), k_target, rbf_kernel(x, target, width)
        of_x = resampled_counts(np.arange(len(x)), DRAWS, seed + 2 * number + 1)
        of_y = resampled_counts(np.arange(len(target)), DRAWS, seed)
        far = frechet_distance(x, target)
        fars = np.array([frechet_distance(x, target, a, b) for a, b in zip(of_x, of_y, strict=True)])
        apart = squared_mmd(*kernels)
        aparts = np.array([squared_mmd(*kernels, a, b) for a, b in zip(of_x, of_y, strict=True)])
        found[name] = (
            Estimate(far, *normal_interval(far, fars)),
            Estimate(apart, *normal_interval(apart, aparts)),
        )
    return found
