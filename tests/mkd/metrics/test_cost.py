"""Counting parameters and multiply-accumulates against counts by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mkd.metrics.cost import Cost, cost, gmac, parameters


class _Attention(nn.Module):
    """Matrix products that no module counts."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        return torch.matmul(flat, flat.transpose(1, 2))


@settings(max_examples=20, deadline=None)
@given(
    out=st.integers(1, 4), groups=st.sampled_from([1, 3]), kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3), dilation=st.integers(1, 3), size=st.integers(5, 12),
)  # fmt: skip
def test_convolution_by_hand(out, groups, kernel, stride, dilation, size):
    """A convolution costs output pixels x output channels x input channels of a group x taps."""
    conv = nn.Conv2d(3, 3 * out, kernel, stride, dilation * (kernel // 2), dilation, groups)
    side = conv(torch.zeros(1, 3, size, size)).shape[-1]
    assert gmac(conv, size) * 1e9 == pytest.approx(side * side * 3 * out * (3 // groups) * kernel**2)


def test_linear_and_matrix_products_count():
    """A linear layer costs its weights; a product (n,k)(k,m) costs nkm."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 7))
    assert gmac(linear, 4) * 1e9 == pytest.approx(3 * 16 * 7)
    assert gmac(_Attention(), 4) * 1e9 == pytest.approx(3 * 16 * 3)


def test_norms_activations_and_resizing_are_free():
    """BatchNorm, ReLU, pooling and interpolation count as nothing."""
    free = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2), nn.Upsample(scale_factor=2))
    assert gmac(free, 8) == 0


def test_model_is_left_as_it_was():
    """Counting changes neither weights, running statistics, device nor each module's own mode."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    cost(model, 16)
    assert [m.training for m in model] == [True, False, True]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.device.type == "cpu" for p in model.parameters())


def test_parameters_count_shared_weights_once_and_no_buffers():
    """A layer used twice counts once, and running statistics do not count."""
    conv = nn.Conv2d(3, 3, 1, bias=False)
    assert parameters(nn.Sequential(conv, conv, nn.BatchNorm2d(3))) == 9 + 6


def test_cost_names_its_size():
    """A cost carries the input size beside both numbers."""
    assert cost(nn.Conv2d(3, 2, 1, bias=False), 10) == Cost(parameters=6, gmac=600 / 1e9, size=10)


@pytest.mark.parametrize("size", [0, -1])
def test_refuses_empty_images(size):
    """A size below 1 is refused."""
    with pytest.raises(ValueError, match="at least 1"):
        gmac(nn.Conv2d(3, 2, 1), size)
