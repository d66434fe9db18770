"""The power law against scipy's fit, and doubling's gain on curves whose truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from mkd.metrics.learning_curve import RATES, fit_power_law, learning_curve

SIZES = np.array([10.0, 20.0, 50.0, 100.0, 200.0])


def law(n, a, b, c):
    return a - b * (np.asarray(n, float) / 200) ** -c


def noisy(seeds, spread, *abc, sizes=SIZES):
    rng = np.random.default_rng(7)
    return law(sizes, *abc) + rng.normal(0, spread, (seeds, len(sizes)))


@pytest.mark.parametrize("abc", [(0.8, 0.1, 0.5), (0.6, 0.02, 1.5), (0.5, -0.03, 0.4)])
def test_as_scipy(abc):
    """Least squares of noisy scores: the sum of squares that scipy reaches from the truth with the same rates."""
    scores = noisy(1, 0.003, *abc)[0]
    found = fit_power_law(SIZES, scores)
    best, _ = curve_fit(law, SIZES, scores, p0=abc, bounds=([-9, -9, RATES[0]], [9, 9, RATES[1]]))
    ours, theirs = (((scores - at) ** 2).sum() for at in (found.at(SIZES), law(SIZES, *best)))
    assert ours <= theirs * 1.01 + 1e-9


def test_without_noise_the_truth():
    """Exact scores of three sizes and of five give doubling's true gain."""
    true = law([400], 0.8, 0.1, 0.5)[0] - law([200], 0.8, 0.1, 0.5)[0]
    for sizes in (SIZES, SIZES[[0, 2, 4]]):
        found = learning_curve(sizes, noisy(2, 0.0, 0.8, 0.1, 0.5, sizes=sizes))
        assert found.gain == pytest.approx(true, rel=0.02)
        assert found.interval == pytest.approx((true, true), rel=0.02)
        assert (found.sizes[0], found.sizes[-1]) == pytest.approx((10, 400))


def test_growth_and_plateau():
    """A curve that still rises has an interval above 0 with the truth in it; one that is flat has 0 in it, or near."""
    rising = learning_curve(SIZES, noisy(5, 0.004, 0.9, 0.2, 0.3))
    true = law([400], 0.9, 0.2, 0.3)[0] - law([200], 0.9, 0.2, 0.3)[0]
    assert 0 < rising.interval[0] < true < rising.interval[1]
    flat = learning_curve(SIZES, noisy(5, 0.001, 0.7, 1e-5, 3.0))
    assert abs(flat.gain) < 0.005
    assert flat.interval[1] < 0.005
    assert (rising.low <= rising.scores + 1e-9).all()
    assert (rising.scores <= rising.high + 1e-9).all()


@given(st.floats(0.01, 0.5), st.floats(-0.3, 0.3), st.floats(0.1, 3.0), st.floats(1, 1e6))
def test_units_do_not_matter(a, b, c, unit):
    """Sizes in other units: the same gain; scores that are shifted, too."""
    scores = noisy(1, 0.002, a, b, c)
    plain = learning_curve(SIZES, scores).gain
    assert learning_curve(SIZES * unit, scores).gain == pytest.approx(plain, rel=1e-6, abs=1e-9)
    assert learning_curve(SIZES, scores + 0.2).gain == pytest.approx(plain, rel=1e-5, abs=1e-7)


def test_one_seed_has_no_interval():
    """The law is drawn, its interval is not known."""
    found = learning_curve(SIZES, noisy(1, 0.0, 0.8, 0.1, 0.5))
    assert found.interval is None
    assert found.low is None
    assert found.gain > 0


@pytest.mark.parametrize("sizes", [[10, 20], [10, 10, 20], [0, 10, 20], [0, 10, 20, 40], []])
def test_too_few_sizes(sizes):
    """Two sizes, equal ones, and 0, which the law does not know."""
    with pytest.raises(ValueError, match="needs 3 different sizes above 0"):
        learning_curve(sizes, np.zeros((2, len(sizes))))
