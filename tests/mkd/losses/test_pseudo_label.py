"""L_cons against a pixel loop, with nothing kept, and its gradient."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mkd.losses.pseudo_label import pseudo_label_loss
from tests.helpers import references
from tests.helpers.training.shares import shares_and_gradients


def case(seed=0, classes=4, dropped=0.4, batch=2):
    """Random logits (float64 array) and pseudo-labels (uint8 array) of which a share is dropped."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, (batch, 3, 4)).astype(np.uint8)
    labels[rng.random(labels.shape) < dropped] = 255
    return rng.normal(0, 2, (batch, classes, 3, 4)), labels


def loss_and_gradient(logits, labels, **kwargs):
    z = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    loss = pseudo_label_loss(z, torch.as_tensor(labels), **kwargs)
    loss.backward()
    return loss.item(), z.grad


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.integers(1, 6))
def test_equals_the_pixel_loop(seed, dropped, classes):
    """The loss is the mean of -log p over the kept pixels alone, for any share of them."""
    logits, labels = case(seed, classes, dropped)
    loss, _ = loss_and_gradient(logits, labels)
    assert loss == pytest.approx(references.cross_entropy(logits, labels), rel=1e-4, abs=1e-6)


def test_gradient_equals_finite_differences():
    """Backward is the derivative of the reference; dropped pixels get none."""
    logits, labels = case()
    _, gradient = loss_and_gradient(logits, labels)
    expected = references.numeric_gradient(lambda z: references.cross_entropy(z, labels), logits)
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-3, atol=1e-6)
    assert not gradient.movedim(1, -1)[torch.as_tensor(labels == 255)].any()


def test_nothing_kept_is_zero_with_a_zero_gradient():
    """When the filters drop everything the loss is exactly 0 with a zero gradient, not NaN."""
    loss, gradient = loss_and_gradient(*case(dropped=1.0))
    assert loss == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_the_mean_is_over_kept_pixels():
    """Dropping pixels does not water the loss down: one kept pixel costs its own cross-entropy."""
    logits, labels = case()
    alone = np.full_like(labels, 255)
    alone[1, 2, 3] = 2
    ((expected, _),) = references.pixel_losses(logits, alone)
    assert loss_and_gradient(logits, alone)[0] == pytest.approx(expected, rel=1e-5)


def test_a_single_kept_pixel_in_a_batch_of_one():
    """One tile of one pixel works as well."""
    loss, _ = loss_and_gradient(np.zeros((1, 5, 1, 1)), np.full((1, 1, 1), 3, np.uint8))
    assert loss == pytest.approx(np.log(5), rel=1e-6)


def test_another_ignore_index():
    """The dropped id is the one that was passed."""
    logits, labels = case()
    renamed = np.where(labels == 255, 200, labels)
    assert loss_and_gradient(logits, renamed, ignore_index=200)[0] == loss_and_gradient(logits, labels)[0]


def test_large_maps_keep_their_precision():
    """Summing a million pixels in float32 does not drift: equal pixels give the loss of one of them."""
    logits = torch.zeros(4, 3, 512, 512)
    loss = pseudo_label_loss(logits, torch.ones(4, 512, 512, dtype=torch.uint8))
    assert loss.item() == pytest.approx(np.log(3), rel=1e-5)


def test_bfloat16_logits_are_summed_in_float32():
    """Under autocast the logits come as bfloat16; the loss is that of their values in float32."""
    logits, labels = case()
    z = torch.tensor(logits).bfloat16()
    loss = pseudo_label_loss(z, torch.tensor(labels))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(references.cross_entropy(z.double(), labels), rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.4, 0.95, 1.0]),
    st.booleans(),
)
def test_shares_of_ranks_add_up(seed, sizes, dropped, empty):
    """However a global batch is split, shares and gradients are those of its one mean over kept pixels."""
    logits, labels = case(seed, dropped=dropped, batch=sum(sizes))
    if empty:
        labels[-sizes[-1] :] = 255  # the last rank keeps nothing

    def loss(z, y, total):
        return pseudo_label_loss(z, y, count=total((y != 255).sum()).clamp(min=1))

    value, gradient = shares_and_gradients(loss, (logits, labels), sizes)
    expected, whole = loss_and_gradient(logits, labels)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(gradient, whole, rtol=1e-5, atol=1e-9)
