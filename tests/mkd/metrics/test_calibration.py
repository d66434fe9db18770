"""The expected calibration error against a loop over pixels, and what its bins hold."""

import math

import numpy as np
import pytest
import torch

from mkd.metrics.calibration import BINS, Calibration
from tests.helpers import references


def slow(p, labels):
    bins = {}
    for values, y in references.pixels(p, labels):
        if y != 255:
            top = max(values)
            bins.setdefault(min(int(top * BINS), BINS - 1), []).append((top, values.index(top) == y))
    total = sum(map(len, bins.values()))
    return sum(abs(sum(h for _, h in rows) - sum(c for c, _ in rows)) for rows in bins.values()) / total


@pytest.mark.parametrize("seed", range(3))
def test_as_the_loop(seed):
    """ECE of random probabilities with ignored pixels, in two batches."""
    rng = np.random.default_rng(seed)
    p = torch.tensor(rng.normal(0, 2, (4, 3, 5, 6))).softmax(dim=1)
    labels = torch.from_numpy(rng.choice([0, 1, 2, 255], (4, 5, 6)).astype(np.uint8))
    found = Calibration()
    found.update(p[:3], labels[:3])
    found.update(p[3:], labels[3:])
    assert found.ece() == pytest.approx(slow(p, labels), abs=1e-9)
    bins = found.to_json()["bins"]
    assert sum(each["pixels"] for each in bins) == int((labels != 255).sum())
    assert all(each["low"] <= each["confidence"] <= each["high"] + 1e-9 for each in bins)


def test_known_errors():
    """Always sure and always right: 0; always sure and always wrong: 1; no pixel: NaN."""
    p = torch.zeros(1, 2, 2, 2)
    p[:, 0] = 1.0
    for label, error in ((0, 0.0), (1, 1.0)):
        found = Calibration()
        found.update(p, torch.full((1, 2, 2), label, dtype=torch.uint8))
        assert found.ece() == error
    assert math.isnan(Calibration().ece())
