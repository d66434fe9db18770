"""What a confusion costs, against the matrix mended by hand."""

import numpy as np
import pytest
import torch

from mkd.metrics.confusion import ConfusionMatrix
from mkd.metrics.confusion_cost import confusion_costs


def miou(counts):
    matrix = ConfusionMatrix(len(counts))
    matrix.matrix = torch.tensor(counts)
    return matrix.miou()


@pytest.mark.parametrize("seed", range(3))
def test_as_mended_by_hand(seed):
    """Each cell moved to the diagonal, one after another; one class is absent from the labels."""
    counts = np.random.default_rng(seed).integers(0, 50, (4, 4))
    counts[3] = 0
    found = confusion_costs(torch.from_numpy(counts))
    for t in range(4):
        for p in range(4):
            mended = counts.copy()
            mended[t, p] -= counts[t, p]
            mended[t, t] += counts[t, p]
            assert float(found[t, p]) == pytest.approx(
                miou(mended.tolist()) - miou(counts.tolist()), abs=1e-12
            )
    assert found.diagonal().tolist() == [0, 0, 0, 0]


def test_a_rare_class_costs_more():
    """100 pixels taken from a rare class cost more than 200 of two frequent ones."""
    counts = torch.tensor([[10_000, 200, 0], [0, 10_000, 0], [100, 0, 100]])
    costs = confusion_costs(counts)
    assert costs[2, 0] > costs[0, 1] > 0
