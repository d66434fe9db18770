"""Distances between two domains, each given by the features of its tiles: Frechet distance and MMD."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def frechet_distance(x: Floats, y: Floats, of_x: Counts | None = None, of_y: Counts | None = None) -> float:
    """Return the squared Frechet distance between the normal distributions fitted to two sets of features.

    ::

        d^2 = |mu_x - mu_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2))

    It is too large for few tiles: of two samples of one distribution it is above 0, the more the fewer there are.
    Domains are comparable where their numbers of tiles are equal.

    Args:
        x: float64 (N,F), N >= 2.
        y: float64 (M,F), M >= 2.
        of_x: how often each row of x counts, as in a bootstrap sample; None: once.
        of_y: the same of y.

    Source: Dowson and Landau 1982; Heusel et al. 2017 (FID).
    """
    (mean_x, s_x), (mean_y, s_y) = _moments(x, of_x), _moments(y, of_y)
    root = _square_root(s_x)
    # (S_x S_y)^(1/2) has the eigenvalues of (S_x^(1/2) S_y S_x^(1/2))^(1/2), which is symmetric.
    both = np.sqrt(np.clip(np.linalg.eigvalsh(root @ s_y @ root), 0, None)).sum()
    apart = float(((mean_x - mean_y) ** 2).sum())
    return max(0.0, apart + float(np.trace(s_x) + np.trace(s_y) - 2 * both))


def _moments(x: Floats, counts: Counts | None) -> tuple[Floats, Floats]:
    mean: Floats = np.average(x, axis=0, weights=counts)
    covariance: Floats = np.atleast_2d(np.cov(x.T, fweights=counts))
    return mean, covariance


def _square_root(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh(matrix)
    root: Floats = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root


def squared_distances(x: Floats, y: Floats) -> Floats:
    """Return |x_i - y_j|^2, (N,M)."""
    found: Floats = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T
    return found.clip(0, None)


def median_bandwidth(points: Floats) -> float:
    """Return the median distance of two different rows of (N,F), N >= 2: the width of the RBF kernel.

    Source: Gretton et al. 2012, "A Kernel Two-Sample Test", section 8.
    """
    apart = squared_distances(points, points)[np.triu_indices(len(points), 1)]
    return float(np.median(np.sqrt(apart)))


def rbf_kernel(x: Floats, y: Floats, bandwidth: float) -> Floats:
    """Return k(x_i, y_j) = exp(-|x_i - y_j|^2 / (2 bandwidth^2)), (N,M)."""
    kernel: Floats = np.exp(-squared_distances(x, y) / (2 * bandwidth**2))
    return kernel


def squared_mmd(
    k_xx: Floats, k_yy: Floats, k_xy: Floats, of_x: Counts | None = None, of_y: Counts | None = None
) -> float:
    """Return the unbiased estimate of the squared maximum mean discrepancy, which may be below 0.

    ::

        MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

    Args:
        k_xx: kernel (N,N) within x.
        k_yy: kernel (M,M) within y.
        k_xy: kernel (N,M) between them.
        of_x: how often each row of x counts; two copies of one row are no pair, or each bootstrap sample would look
            nearer to itself than the data are. None: once.
        of_y: the same of y.

    Source: Gretton et al. 2012, "A Kernel Two-Sample Test", equation 3.
    """
    a = np.ones(len(k_xx)) if of_x is None else of_x.astype(np.float64)
    b = np.ones(len(k_yy)) if of_y is None else of_y.astype(np.float64)
    between = a @ k_xy @ b / (a.sum() * b.sum())
    return float(_within(k_xx, a) + _within(k_yy, b) - 2 * between)


def _within(kernel: Floats, counts: Floats) -> float:
    same = counts**2
    return float((counts @ kernel @ counts - same @ kernel.diagonal()) / (counts.sum() ** 2 - same.sum()))
