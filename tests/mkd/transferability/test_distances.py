"""Frechet distance against scipy's matrix root, MMD against loops over pairs, both with bootstrap counts."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from mkd.transferability.distances import frechet_distance, median_bandwidth, rbf_kernel, squared_mmd


def sets(seed, count=9, other=7, size=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, size)), rng.normal(0.5, 2, size=(other, size))


def slow_frechet(x, y):
    s_x, s_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = sqrtm(s_x @ s_y).real
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s_x + s_y - 2 * root))


@pytest.mark.parametrize("seed", range(4))
def test_frechet_as_by_scipy(seed):
    """The definition, with the root of the product."""
    x, y = sets(seed)
    assert frechet_distance(x, y) == pytest.approx(slow_frechet(x, y), rel=1e-6)


def test_frechet_of_known_distributions():
    """Same shape, moved by (3, 4): 25; of one feature with deviations 1 and 3: (3 - 1)^2."""
    x = np.random.default_rng(0).normal(size=(20, 2))
    assert frechet_distance(x, x + [3, 4]) == pytest.approx(25)
    line = np.array([[-1.0], [0.0], [1.0]])
    assert frechet_distance(line, 3 * line) == pytest.approx(4)


def test_frechet_of_few_tiles():
    """Fewer tiles than features: the covariances are singular, and the distance to itself is still 0."""
    x = np.random.default_rng(0).normal(size=(4, 10))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)


def slow_mmd(x, y, width):
    def k(a, b):
        return math.exp(-sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / (2 * width**2))

    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


@pytest.mark.parametrize("seed", range(4))
def test_mmd_as_the_loop_over_pairs(seed):
    """Equation 3 of Gretton et al., pair by pair; the bandwidth is the median of the distances."""
    x, y = sets(seed)
    both = np.concatenate([x, y])
    apart = [math.dist(both[i], both[j]) for i in range(16) for j in range(i)]
    width = median_bandwidth(both)
    assert width == pytest.approx(float(np.median(apart)))
    kernels = rbf_kernel(x, x, width), rbf_kernel(y, y, width), rbf_kernel(x, y, width)
    assert squared_mmd(*kernels) == pytest.approx(slow_mmd(x.tolist(), y.tolist(), width), rel=1e-9)


def test_mmd_is_unbiased():
    """Over many samples of one distribution its mean is 0; the biased estimate's is not."""
    found = []
    for seed in range(300):
        x, y = np.random.default_rng(seed).normal(size=(2, 8, 2))
        found.append(squared_mmd(rbf_kernel(x, x, 1.5), rbf_kernel(y, y, 1.5), rbf_kernel(x, y, 1.5)))
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(300)
    assert min(found) < 0


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_counts_are_repeated_rows(seed):
    """Frechet: a row that counts twice is there twice. MMD: its copies are no pair with each other."""
    x, y = sets(seed)
    rng = np.random.default_rng(seed)
    a, b = rng.multinomial(9, [1 / 9] * 9), rng.multinomial(7, [1 / 7] * 7)
    assert frechet_distance(x, y, a, b) == pytest.approx(
        frechet_distance(np.repeat(x, a, axis=0), np.repeat(y, b, axis=0)), abs=1e-6
    )
    kernels = rbf_kernel(x, x, 2.0), rbf_kernel(y, y, 2.0), rbf_kernel(x, y, 2.0)

    def within(kernel, counts):
        rows = np.repeat(np.arange(len(counts)), counts)
        pairs = [kernel[i, j] for i in rows for j in rows if i != j]
        return sum(pairs) / len(pairs)

    if (a > 0).sum() > 1 < (b > 0).sum():
        between = kernels[2][np.ix_(np.repeat(np.arange(9), a), np.repeat(np.arange(7), b))].mean()
        expected = within(kernels[0], a) + within(kernels[1], b) - 2 * between
        assert squared_mmd(*kernels, a, b) == pytest.approx(expected, abs=1e-9)
