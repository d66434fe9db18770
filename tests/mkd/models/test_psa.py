"""Polarized self-attention against a plain pixel-by-pixel reference."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mkd.metrics.cost import gmac, parameters
from mkd.models.psa import PolarizedSelfAttention, polarized_pair


def _softmax(v: np.ndarray) -> np.ndarray:
    e = np.exp(v - v.max())
    return e / e.sum()


def _matrix(conv: nn.Module) -> np.ndarray:
    assert isinstance(conv, nn.Conv2d)
    return conv.weight.detach().double().numpy()[:, :, 0, 0]


def _sigmoid(v: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-v))


def _up(psa: PolarizedSelfAttention, context: np.ndarray) -> np.ndarray:
    if psa.form == "parallel":
        return _matrix(psa.channel_up) @ context
    assert isinstance(psa.channel_up, nn.Sequential)
    first, norm, _, last = psa.channel_up
    h = _matrix(first) @ context + first.bias.detach().double().numpy()
    h = (h - h.mean()) / np.sqrt(h.var() + norm.eps)
    h = h * norm.weight.detach().numpy().ravel() + norm.bias.detach().numpy().ravel()
    return _matrix(last) @ np.maximum(h, 0) + last.bias.detach().double().numpy()


def _slow_channel(psa: PolarizedSelfAttention, x: np.ndarray) -> np.ndarray:
    """A_ch of one image, x (C,n): the values' mean, weighted by a softmax over the pixels."""
    weight = _softmax((_matrix(psa.channel_query) @ x)[0])
    value = _matrix(psa.channel_value) @ x
    context = sum(weight[i] * value[:, i] for i in range(x.shape[1]))
    return _sigmoid(_up(psa, np.asarray(context)))


def _slow_spatial(psa: PolarizedSelfAttention, x: np.ndarray) -> np.ndarray:
    """A_sp of one image, x (C,n), by the definition of each variant."""
    query = (_matrix(psa.spatial_query) @ x).mean(axis=1)
    value = _matrix(psa.spatial_value) @ x
    if psa.variant == "paper":
        weight = _softmax(query)
        score = np.array([weight @ value[:, i] for i in range(x.shape[1])])
    elif psa.form == "parallel":
        score = _softmax(np.array([query @ value[:, i] for i in range(x.shape[1])]))
    else:
        rows = np.stack([_softmax(row) for row in value])
        score = np.array([query @ rows[:, i] for i in range(x.shape[1])])
    return _sigmoid(score)


def _slow(psa: PolarizedSelfAttention, image: Tensor) -> Tensor:
    channels, height, width = image.shape
    x = image.double().numpy().reshape(channels, -1)
    gate = _slow_channel(psa, x)[:, None]
    result = gate * x + _slow_spatial(psa, x) * x if psa.form == "parallel" else None
    if result is None:
        result = _slow_spatial(psa, gate * x) * (gate * x)
    return torch.from_numpy(result.reshape(channels, height, width))


@pytest.mark.parametrize("variant", ["paper", "published"])
@pytest.mark.parametrize("form", ["parallel", "sequential"])
@settings(max_examples=15, deadline=None)
@given(
    batch=st.integers(1, 3),
    half=st.integers(4, 9),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    seed=st.integers(0, 999),
)
def test_equals_reference(form, variant, batch, half, height, width, seed):
    """Both forms of both variants are the equations, written out pixel by pixel in float64."""
    torch.manual_seed(seed)
    psa = PolarizedSelfAttention(2 * half, form, variant).double()
    x = torch.randn(batch, 2 * half, height, width, dtype=torch.float64)
    expected = torch.stack([_slow(psa, image) for image in x])
    torch.testing.assert_close(psa(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", ["parallel", "sequential"])
def test_only_the_paper_gate_varies_in_space(form):
    """At 720 channels the paper's spatial gate varies and the published one is nearly constant."""
    torch.manual_seed(0)
    x = torch.randn(1, 720, 64, 64).relu()
    quarters = torch.tensor([0.25, 0.75])
    spread = {}
    for variant in ("paper", "published"):
        gate = PolarizedSelfAttention(720, form, variant).spatial_gate(x)
        low, high = gate.flatten().quantile(quarters)
        spread[variant] = (high - low).item()
    assert spread["paper"] > 1e-2
    assert spread["published"] < 1e-3


def test_variants_cost_the_same():
    """Both variants have as many weights and multiply-accumulates, so that Table 1 cannot tell them apart."""
    pairs = [polarized_pair(64, variant) for variant in ("paper", "published")]
    assert parameters(pairs[0]) == parameters(pairs[1])
    wrapped = [nn.Sequential(nn.Conv2d(3, 64, 1), pair) for pair in pairs]
    assert gmac(wrapped[0], 16) == gmac(wrapped[1], 16)


def test_gradient_reaches_every_weight():
    """Each convolution of the pair takes part: its gradient is not zero."""
    torch.manual_seed(0)
    pair = polarized_pair(16, "paper").double()
    pair(torch.randn(2, 16, 5, 4, dtype=torch.float64)).square().sum().backward()
    dead = [name for name, p in pair.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


@pytest.mark.parametrize(
    ("channels", "form", "variant", "word"),
    [(9, "parallel", "paper", "even"), (16, "both", "paper", "form"), (16, "parallel", "mine", "variant")],
)
def test_refuses_impossible(channels, form, variant, word):
    """Odd channel counts and unknown names are refused by name."""
    with pytest.raises(ValueError, match=word):
        PolarizedSelfAttention(channels, form, variant)
