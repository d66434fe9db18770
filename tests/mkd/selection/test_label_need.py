"""The need of a label against a pixel loop, and the weights of classes."""

import numpy as np
import pytest
import torch

from mkd.selection.label_need import class_weights, label_need
from mkd.semi.entropy import normalised_entropy
from tests.helpers import references


@pytest.mark.parametrize("masked", [False, True])
def test_need_as_the_pixel_loop(masked):
    """s = mean over valid pixels of h sum_c p_c w_c."""
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.normal(0, 2, (2, 4, 3, 5)), dtype=torch.float32)
    weights = class_weights([0.9, 0.2, None, 0.5])
    valid = torch.tensor(rng.random((2, 3, 5)) < 0.6) if masked else None
    found = label_need(normalised_entropy(logits), logits.softmax(dim=1), weights, valid)
    for tile in range(2):
        values = []
        for z, ok in references.pixels(
            logits[tile : tile + 1], (torch.ones(1, 3, 5) if valid is None else valid[tile : tile + 1])
        ):
            if ok:
                p = references.softmax(z)
                values.append(
                    references.entropy(z) * sum(a * b for a, b in zip(p, weights.tolist(), strict=True))
                )
        assert float(found[tile]) == pytest.approx(sum(values) / len(values), rel=1e-5)


def test_equal_weights_give_the_mean_entropy():
    """With all weights 1 it is the mean entropy: 1 for logits that are all equal."""
    p = torch.full((1, 5, 2, 2), 0.2)
    assert float(label_need(normalised_entropy(p.log()), p, torch.ones(5))) == pytest.approx(1.0)


def test_a_tile_of_missing_pixels_needs_nothing():
    """No valid pixel: 0, not NaN."""
    p = torch.full((1, 2, 2, 2), 0.5)
    none = torch.zeros(1, 2, 2, dtype=torch.bool)
    assert label_need(normalised_entropy(p.log()), p, torch.ones(2), none).tolist() == [0.0]


def test_weights_of_classes():
    """What the IoU lacks, with mean 1; an unknown class counts as the mean; nothing to weight by: all 1."""
    assert class_weights([1.0, 0.5, 0.0]).tolist() == pytest.approx([0, 1, 2])
    assert class_weights([0.75, None, 0.25, float("nan")]).tolist() == pytest.approx([0.5, 1, 1.5, 1])
    assert class_weights([1.0, 1.0]).tolist() == [1, 1]
    assert class_weights([None, None]).tolist() == [1, 1]
