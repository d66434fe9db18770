"""Temperature scaling against softmax(z / T) and against a minimiser of the negative log-likelihood."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from mkd.metrics.temperature import HIGHEST, LOWEST, TemperatureFit, at_temperature


def drawn(seed, true, classes=4, side=60):
    """Logits, and labels drawn from their softmax at a temperature; a tenth of the pixels is ignored."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (2, classes, side, side))
    p = np.exp(logits / true)
    p /= p.sum(axis=1, keepdims=True)
    labels = (p.cumsum(axis=1) < rng.random((2, 1, side, side))).sum(axis=1).clip(0, classes - 1)
    labels[rng.random(labels.shape) < 0.1] = 255
    return torch.from_numpy(logits), torch.from_numpy(labels.astype(np.uint8))


def slow(logits, labels):
    """Minimise the NLL by scipy, pixel sums in numpy, over log T."""
    z, y = logits.numpy().transpose(0, 2, 3, 1).reshape(-1, logits.shape[1]), labels.numpy().ravel()
    z, y = z[y != 255], y[y != 255]

    def nll(log_t):
        scaled = z / math.exp(log_t)
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        return float((np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(y)), y]).mean())

    return math.exp(minimize_scalar(nll, bounds=(-2.3, 2.3), method="bounded", options={"xatol": 1e-6}).x)


@pytest.mark.parametrize(("seed", "true"), [(0, 0.4), (1, 1.0), (2, 1.7), (3, 4.0)])
def test_as_the_minimiser(seed, true):
    """In two batches, as scipy finds it in one; near the temperature that the labels were drawn at."""
    logits, labels = drawn(seed, true)
    fit, p = TemperatureFit(), logits.softmax(dim=1)
    fit.update(p[:1], labels[:1])
    fit.update(p[1:], labels[1:])
    assert fit.pixels == int((labels != 255).sum())
    assert fit.temperature() == pytest.approx(slow(logits, labels), rel=5e-3)
    assert fit.temperature() == pytest.approx(true, rel=0.1)


def test_what_was_scaled_needs_no_more():
    """Probabilities at the temperature found have the best temperature 1."""
    logits, labels = drawn(4, 2.5)
    first, second = TemperatureFit(), TemperatureFit()
    first.update(logits.softmax(dim=1), labels)
    second.update(at_temperature(logits.softmax(dim=1), first.temperature()), labels)
    assert second.temperature() == pytest.approx(1.0, rel=5e-3)


@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_softmax_of_scaled_logits(seed, temperature):
    """q is softmax(z / T), and the order of the classes is that of p."""
    logits = torch.from_numpy(np.random.default_rng(seed).normal(0, 2, (1, 5, 3, 2)))
    p = logits.softmax(dim=1)
    q = at_temperature(p, temperature)
    torch.testing.assert_close(q, (logits / temperature).softmax(dim=1))
    assert torch.equal(q.argmax(dim=1), p.argmax(dim=1))


def test_limits_of_scaling():
    """T = 1 gives back the very tensor; a probability of 0 stays finite; one of 1 stays 1."""
    p = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    assert at_temperature(p, 1.0) is p
    for temperature in (LOWEST, HIGHEST):
        q = at_temperature(p, temperature)
        assert q.isfinite().all()
        assert q[0, 0, 0, 0] == pytest.approx(1.0, abs=1e-3)


def test_refusals():
    """No pixel; always right, which no temperature is low enough for; sure and always wrong."""
    p = torch.full((1, 2, 4, 4), 0.1)
    p[:, 0] = 0.9
    for label, words in ((255, "no labelled pixel"), (0, "almost everywhere"), (1, "almost nowhere")):
        fit = TemperatureFit()
        fit.update(p, torch.full((1, 4, 4), label, dtype=torch.uint8))
        with pytest.raises(ValueError, match=words):
            fit.temperature()
