"""Blended windows against a loop over pixels, and what must not depend on them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mkd.geo.blend import window_weight
from mkd.geo.grid import covering_windows
from mkd.inference.windowed import default_overlap, probabilities


class Positions(nn.Module):
    """A network that knows where in its window a pixel lies, so that windows disagree."""

    def forward(self, x):
        rows = torch.arange(x.shape[2], dtype=torch.float32)[:, None] / 7
        return torch.stack([x[:, 0] + rows, x[:, 1] - rows, x[:, 2].expand_as(x[:, 0])], dim=1)


def slow(model, images, window):
    """Average each pixel over the windows that hold it, one by one."""
    _, _, height, width = images.shape
    total, weights = np.zeros((len(images), 3, height, width)), np.zeros((height, width))
    for row, col, tall, wide in covering_windows(height, width, window, window // 4):
        logits = model(images[:, :, row : row + tall, col : col + wide]).double().numpy()
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        w = window_weight(tall, wide)
        for y in range(tall):
            for x in range(wide):
                total[:, :, row + y, col + x] += w[y, x] * p[:, :, y, x]
                weights[row + y, col + x] += w[y, x]
    return total / weights


@given(st.integers(1, 40), st.integers(1, 40), st.integers(4, 24), st.integers(0, 99))
def test_windows_equal_the_loop(height, width, window, seed):
    """Whatever the sizes; the result is a distribution over the classes."""
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    found = probabilities(Positions(), images, window)
    assert found.shape == (2, 3, height, width)
    np.testing.assert_allclose(found, slow(Positions(), images, window), atol=1e-5)
    np.testing.assert_allclose(found.sum(dim=1), 1, atol=1e-5)


@pytest.mark.parametrize("window", [None, 32, 99])
def test_one_window_is_the_network_itself(window):
    """Images that a window holds are predicted whole, as those of models whose crop is unknown."""
    images = torch.rand(2, 3, 32, 20)
    torch.testing.assert_close(
        probabilities(Positions(), images, window), Positions()(images).softmax(dim=1), rtol=0, atol=0
    )


def test_a_network_sees_no_larger_image_than_its_window():
    """Sizes of what the network is given."""
    seen = []

    def network(x):
        seen.append(tuple(x.shape[2:]))
        return x

    probabilities(network, torch.rand(1, 3, 70, 20), 32)
    assert set(seen) == {(32, 20)}
    assert default_overlap(32) == 8
