"""Tiles that stand for a data set: one near each k-means centroid of the features, spread over the ground."""

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from mkd.selection.k_center import Floats, Neighbours, greedy_k_center

NEAR = 0.25  # share of a cluster that counts as near to its centroid: among these the place on the ground decides
STARTS = 4  # k-means from so many seeds; the one with the least inertia is kept


def standardise(features: Floats) -> Floats:
    """Return (N,F) features with mean 0 and standard deviation 1 in each dimension; a constant one becomes 0."""
    spread = features.std(axis=0)
    scaled: Floats = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return scaled


def spread_representatives(
    features: Floats, positions: Floats, neighbours: Neighbours, count: int, seed: int
) -> list[int]:
    """Choose one tile for each of ``count`` k-means clusters, largest cluster first.

    Of the quarter of a cluster that is nearest to its centroid, the tile that is farthest on the ground from all chosen
    ones is taken; neighbours of chosen tiles are left out. A cluster without a free tile gives none; what is missing in
    the end is filled up by greedy k-centre over the features.

    Args:
        features: (N,F), one row a tile.
        positions: (N,3) points on the ground in one space, such as kilometres; NaN where a place is not known.
        neighbours: of each tile, the tiles that may not be chosen beside it.
        count: how many, >= 1; fewer come back where no free tile is left.
        seed: of k-means.

    Returns:
        Numbers of tiles in the order in which they were chosen.
    """
    x = standardise(features)
    clusters = min(count, len(np.unique(x, axis=0)))
    means = KMeans(clusters, n_init=STARTS, random_state=seed).fit(x)
    apart = np.linalg.norm(x - means.cluster_centers_[means.labels_], axis=1)
    sizes = np.bincount(means.labels_, minlength=clusters)
    chosen: list[int] = []
    free, ground = np.ones(len(x), bool), np.full(len(x), np.inf)
    for cluster in np.argsort(-sizes, kind="stable"):
        members = np.flatnonzero((means.labels_ == cluster) & free)
        if not len(members):
            continue
        nearest = members[np.argsort(apart[members], kind="stable")]
        pick = _farthest(nearest[: max(1, round(NEAR * len(members)))], ground)
        chosen.append(pick)
        free[[pick, *neighbours[pick].tolist()]] = False
        # A distance to an unknown place is NaN, which fmin passes over.
        np.fmin(ground, np.linalg.norm(positions - positions[pick], axis=1), out=ground)
    return greedy_k_center(x, count, neighbours, chosen)


def _farthest(members: NDArray[np.int64], ground: Floats) -> int:
    """Return the member farthest from the chosen tiles; the first, nearest to its centroid, of equal ones."""
    return int(members[int(ground[members].argmax())])
