"""LogME: the log evidence, a pixel, of a Bayesian linear model that predicts labels from features."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_STEPS, _CLOSE = 100, 1e-6  # of the fixed-point iteration: most steps, relative change that ends it


def logme(features: Floats, labels: NDArray[np.int64]) -> float:
    """Return LogME of features for labels, mean over the classes, one against the rest.

    ::

        y = F w + noise,  w ~ N(0, I/alpha),  noise ~ N(0, I/beta)
        LogME = 1/C sum_c max_{alpha, beta} 1/N log p(y_c | F, alpha, beta)

    The maximum is found by the fixed point of You et al., alpha = gamma / |m|^2 and beta = (N - gamma) / |y - F m|^2,
    where m is the mean of w and gamma = sum_i s_i^2 / (s_i^2 + alpha / beta) over the singular values s of F.

    Args:
        features: float64 (N,D), N > D.
        labels: integer (N,), of at least two classes; classes without a pixel do not count.

    Returns:
        Higher is better; comparable between features of the same pixels only.

    Raises:
        ValueError: one class only, or too few pixels.

    Source: You et al. 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning"; over pixels as
    in Agostinelli et al. 2022, "How Stable are Transferability Metrics Evaluations?".
    """
    count, size = features.shape
    present = np.unique(labels)
    if len(present) < 2:
        raise ValueError("LogME needs labels of two classes or more: give more labelled tiles")
    if count <= size:
        raise ValueError(
            f"LogME needs more labelled pixels than {size} features, {count} found: give more tiles"
        )
    u, s, _ = np.linalg.svd(features, full_matrices=False)
    return float(np.mean([_evidence(u, s, (labels == c).astype(np.float64), size) for c in present]))


def _evidence(u: Floats, s: Floats, y: Floats, size: int) -> float:
    """Return the greatest log evidence, divided by N, for one target y (N,)."""
    count, s2 = len(y), s**2
    z2 = (u.T @ y) ** 2
    rest = max(float(y @ y - z2.sum()), 0.0)  # what no weights explain
    alpha = beta = 1.0
    for _ in range(_STEPS):
        t = alpha / beta
        gamma = float((s2 / (s2 + t)).sum())
        m2 = float((s2 * z2 / (s2 + t) ** 2).sum())
        r2 = float((z2 * (t / (s2 + t)) ** 2).sum()) + rest
        alpha, beta = gamma / max(m2, 1e-12), (count - gamma) / max(r2, 1e-12)
        if abs(alpha / beta - t) <= _CLOSE * t:
            break
    t = alpha / beta
    m2 = float((s2 * z2 / (s2 + t) ** 2).sum())
    r2 = float((z2 * (t / (s2 + t)) ** 2).sum()) + rest
    log_det = float(np.log(alpha + beta * s2).sum()) + (size - len(s)) * np.log(alpha)
    total = size * np.log(alpha) + count * np.log(beta / (2 * np.pi)) - log_det - beta * r2 - alpha * m2
    return float(total / 2 / count)
