"""Greedy k-centre: points that leave no other point far from all chosen ones, of which no two are neighbours."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Neighbours = Sequence[NDArray[np.int64]]  # of each point, the points that may not be chosen beside it


def greedy_k_center(
    features: Floats, count: int, neighbours: Neighbours, chosen: Sequence[int] = (), first: int = 0
) -> list[int]:
    """Add to the chosen points, one after another, the free point that is farthest from all chosen ones.

    ::

        next = argmax_i min_{j chosen} ||f_i - f_j||,   i not a neighbour of any j chosen

    Without the neighbours the largest distance of a point to its nearest centre is at most twice the least possible.

    Args:
        features: (N,F).
        count: how many are chosen in all; fewer where no free point is left.
        neighbours: of each point; a point may be among its own.
        chosen: points that are chosen already.
        first: where none is, the point to begin with.

    Returns:
        The chosen points, the given ones first. Of equal distances the point with the lower number is taken.

    Source: Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"; for labelling, Sener and
    Savarese 2018, "Active Learning for Convolutional Neural Networks: A Core-Set Approach".
    """
    found, free = list(chosen), np.ones(len(features), bool)
    distance = np.full(len(features), np.inf)

    def take(point: int) -> None:
        free[[point, *neighbours[point].tolist()]] = False
        np.minimum(distance, np.linalg.norm(features - features[point], axis=1), out=distance)

    for point in found:
        take(point)
    if not found and count > 0 and len(features):
        found.append(first)
        take(first)
    while len(found) < count and free.any():
        point = int(np.where(free, distance, -1.0).argmax())
        found.append(point)
        take(point)
    return found
