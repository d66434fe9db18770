"""LogME against the density of the labels as one normal distribution, maximised by a general optimiser."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from mkd.transferability.logme import logme


def slow(features, labels):
    """Mean over classes of max log N(y; 0, I/beta + F F'/alpha) / N, with dense covariances."""
    count, found = len(labels), []
    for c in sorted(set(labels.tolist())):
        y = (labels == c).astype(float)

        def minus_evidence(logs, y=y):
            alpha, beta = np.exp(logs)
            covariance = np.eye(count) / beta + features @ features.T / alpha
            return -multivariate_normal(np.zeros(count), covariance).logpdf(y) / count

        found.append(
            -min(
                minimize(
                    minus_evidence,
                    start,
                    method="Nelder-Mead",
                    options={"xatol": 1e-7, "fatol": 1e-10, "maxiter": 4000},
                ).fun
                for start in ([0.0, 0.0], [2.0, 2.0])
            )
        )
    return float(np.mean(found))


def case(seed, count=24, size=3, classes=3, signal=1.0):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, count - classes)])
    features = rng.normal(size=(count, size)) + signal * rng.normal(size=(classes, size))[labels]
    return features, labels


@pytest.mark.parametrize("seed", range(4))
def test_as_the_dense_evidence(seed):
    """The fixed point finds the maximum that the optimiser finds."""
    features, labels = case(seed)
    assert logme(features, labels) == pytest.approx(slow(features, labels), abs=2e-5)


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_neither_rotation_nor_scale_of_the_features_matters(seed):
    """The prior has no direction, and alpha takes up any scale."""
    features, labels = case(seed)
    turn, _ = np.linalg.qr(np.random.default_rng(seed + 1).normal(size=(3, 3)))
    assert logme(features @ turn, labels) == pytest.approx(logme(features, labels), abs=1e-6)
    assert logme(7 * features, labels) == pytest.approx(logme(features, labels), abs=1e-4)


def test_features_that_tell_the_classes_are_better():
    """Signal beats noise."""
    assert logme(*case(0, 200, signal=3.0)) > logme(*case(0, 200, signal=0.0)) + 0.1


def test_what_cannot_be_judged():
    """One class, or no more pixels than features: one sentence."""
    features, labels = case(0)
    with pytest.raises(ValueError, match="two classes or more"):
        logme(features, np.zeros_like(labels))
    with pytest.raises(ValueError, match="more labelled pixels than 3 features, 3 found"):
        logme(features[:3], labels[:3])
