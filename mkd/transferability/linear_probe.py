"""A linear classifier on frozen features, and the two halves of a data set that it is fitted and scored on."""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

Floats = NDArray[np.float64]
NEVER = -1e6  # bias of a class that the labels lack
STEPS = 200  # of L-BFGS: a probe that is stopped there is as far as that of every other candidate


def fit_linear(features: Floats, labels: NDArray[np.int64], classes: int) -> tuple[Floats, Floats]:
    """Return weight (C,F) and bias (C,) of the multinomial logistic regression on standardised features.

    ::

        min_{W, b}  sum_n -log softmax(W (f_n - mu) / sigma + b)_{y_n} + 1/2 |W|^2

    Args:
        features: float64 (N,F).
        labels: integer (N,) in [0,C), of at least two classes. A class without a label is never predicted.
        classes: C.

    Raises:
        ValueError: labels of one class only.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise ValueError("a linear probe needs labels of two classes or more: give more labelled tiles")
    mean, spread = features.mean(axis=0), features.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = LogisticRegression(C=1.0, max_iter=STEPS).fit((features - mean) / spread, labels)
    rows, offsets = found.coef_, found.intercept_
    if len(present) == 2:  # one row, that of the second class against the first
        rows, offsets = np.concatenate([-rows, rows]) / 2, np.concatenate([-offsets, offsets]) / 2
    weight, bias = np.zeros((classes, features.shape[1])), np.full(classes, NEVER)
    weight[present] = rows / spread
    bias[present] = offsets - rows @ (mean / spread)
    return weight, bias


def halves(sources: Sequence[str], seed: int) -> tuple[list[int], list[int], str]:
    """Split tiles into two halves, whole sources where there are four or more, else tile by tile.

    Args:
        sources: of each tile; two tiles or more.
        seed: of the order in which sources or tiles are dealt out.

    Returns:
        Numbers of the first half, of the second, and "source" or "tile". Of sources the largest come first, each to the
        half that has fewer tiles.
    """
    names, of = np.unique(np.array(sources), return_inverse=True)
    by = "source" if len(names) >= 4 else "tile"
    groups = of if by == "source" else np.arange(len(sources))
    sizes = np.bincount(groups)
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    parts: tuple[list[int], list[int]] = ([], [])
    for group in order:
        parts[len(parts[1]) < len(parts[0])].extend(np.flatnonzero(groups == group).tolist())
    return sorted(parts[0]), sorted(parts[1]), by
