"""L_sup against a pixel loop, its limit cases, its gradient, and what it promises to keep."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mkd.losses.ohem import ohem_cross_entropy
from tests.helpers import references
from tests.helpers.training.shares import shares_and_gradients

IGNORE = 255


def case(seed=0, batch=2, classes=4, height=3, width=5, ignored=0.2, spread=2.0):
    """Random logits (float64 array) and labels (int64 array) with a share of ignored pixels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (batch, classes, height, width))
    labels = rng.integers(0, classes, (batch, height, width))
    labels[rng.random(labels.shape) < ignored] = IGNORE
    return logits, labels


def loss_and_gradient(logits, labels, *args, **kwargs):
    z = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    loss = ohem_cross_entropy(z, torch.as_tensor(labels), *args, **kwargs)
    loss.backward()
    return loss.item(), z.grad


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("threshold", "min_kept"), [(0.7, 2), (0.3, 12), (0.05, 14), (0.7, 0), (1.0, 0), (0.0, 5)]
)
def test_equals_the_pixel_loop(threshold, min_kept, seed):
    """The loss is the mean over p_y < max(threshold, q), whichever of the two bounds decides."""
    logits, labels = case(seed)
    loss, _ = loss_and_gradient(logits, labels, threshold, min_kept)
    assert loss == pytest.approx(references.ohem(logits, labels, threshold, min_kept), rel=1e-5)


def test_both_bounds_decide_in_the_cases_above():
    """The cases of the loop test differ: mining drops easy pixels, and min_kept brings some of them back."""
    logits, labels = case()
    losses = [references.ohem(logits, labels, t, k) for t, k in [(1.0, 0), (0.7, 2), (0.05, 14), (0.05, 0)]]
    assert len({round(v, 6) for v in losses}) == 4


def test_gradient_equals_finite_differences():
    """Backward is the derivative of the reference; dropped and ignored pixels get none."""
    logits, labels = case(seed=5, height=3, width=3)
    _, gradient = loss_and_gradient(logits, labels, 0.4, 3)
    expected = references.numeric_gradient(lambda z: references.ohem(z, labels, 0.4, 3), logits)
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-3, atol=1e-6)
    assert not gradient.movedim(1, -1)[torch.as_tensor(labels == IGNORE)].any()


def test_nothing_valid_is_zero_with_a_zero_gradient():
    """A batch of ignored pixels gives exactly 0 and a gradient of exactly 0, not NaN."""
    logits, labels = case()
    loss, gradient = loss_and_gradient(logits, np.full_like(labels, IGNORE), 0.7, 2)
    assert loss == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_nothing_hard_is_zero_with_a_zero_gradient():
    """With no pixel below the threshold and min_kept 0 the loss is 0, not the mean of nothing."""
    logits, labels = case()
    loss, gradient = loss_and_gradient(logits, labels, threshold=0.0, min_kept=0)
    assert loss == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_one_class_has_nothing_to_learn():
    """With a single class p_y is 1 everywhere and the loss 0."""
    loss, gradient = loss_and_gradient(*case(classes=1), 0.7, 2)
    assert loss == 0
    assert not gradient.any()


def test_a_single_pixel():
    """A batch of one pixel is that pixel's cross-entropy, however easy it is."""
    logits, labels = np.array([[[[4.0]], [[0.0]]]]), np.zeros((1, 1, 1), np.int64)
    loss, _ = loss_and_gradient(logits, labels, threshold=0.1, min_kept=1)
    assert loss == pytest.approx(np.log1p(np.exp(-4.0)), rel=1e-5)


@pytest.mark.parametrize(("threshold", "min_kept"), [(0.0, 10_000), (1.0, 0), (1.0, 10_000)])
def test_keeping_all_is_the_plain_mean(threshold, min_kept):
    """min_kept beyond the valid pixels, or threshold 1, gives the mean over all valid pixels."""
    logits, labels = case(ignored=0.6)
    loss, _ = loss_and_gradient(logits, labels, threshold, min_kept)
    assert loss == pytest.approx(references.cross_entropy(logits, labels), rel=1e-5)


def test_ignored_pixels_do_not_matter():
    """Whatever the network says at ignored pixels, the loss stays the same to the bit."""
    logits, labels = case()
    changed = logits + 50 * (labels == IGNORE)[:, None]
    assert loss_and_gradient(logits, labels, 0.7, 2)[0] == loss_and_gradient(changed, labels, 0.7, 2)[0]


def test_another_ignore_index():
    """The ignored id is the one that was passed, and 255 has no meaning of its own then."""
    logits, labels = case()
    renamed = np.where(labels == IGNORE, 3, np.minimum(labels, 2))
    same = np.where(labels == IGNORE, IGNORE, np.minimum(labels, 2))
    found, _ = loss_and_gradient(logits, renamed, 0.7, 2, ignore_index=3)
    assert found == loss_and_gradient(logits, same, 0.7, 2)[0]


def test_uint8_labels_and_bfloat16_logits():
    """Labels may be uint8; bfloat16 logits are summed in float32."""
    logits, labels = case(height=16, width=16)
    rounded = torch.tensor(logits).bfloat16()
    loss = ohem_cross_entropy(rounded, torch.tensor(labels.astype(np.uint8)), 0.7, 4)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(references.ohem(rounded.double(), labels, 0.7, 4), rel=1e-5)


def test_confident_mistakes_stay_finite():
    """A logit of 10,000 for the wrong class costs 10,000, not infinity."""
    logits = np.array([[[[0.0, 0.0]], [[1e4, -1e4]]]])
    loss, gradient = loss_and_gradient(logits, np.zeros((1, 1, 2), np.int64), 0.7, 0)
    assert loss == pytest.approx(1e4)
    assert torch.isfinite(gradient).all()


def test_a_network_gone_nan_is_not_hidden():
    """A NaN logit at a valid pixel makes the loss NaN, so that the run can stop, however few are kept."""
    logits, labels = case(ignored=0)
    logits[1, 2, 0, 0] = np.nan
    assert np.isnan(loss_and_gradient(logits, labels, 0.0, 1)[0])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.integers(0, 40), st.floats(0, 1))
def test_keeps_enough_and_the_hardest(seed, threshold, min_kept, ignored):
    """At least min(min_kept, valid) pixels learn, all below the threshold do, and the hardest first."""
    logits, labels = case(seed, ignored=ignored)
    _, gradient = loss_and_gradient(logits, labels, threshold, min_kept)
    learns = gradient.abs().sum(dim=1)[torch.as_tensor(labels != IGNORE)] > 0
    p_y = torch.tensor([p for _, p in references.pixel_losses(logits, labels)])
    assert learns.sum() >= min(min_kept, len(p_y))
    assert learns[p_y < threshold - 1e-6].all()
    if learns.any() and not learns.all():
        assert p_y[learns].max() <= p_y[~learns].min() + 1e-6


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(-20, 20))
def test_a_shift_of_all_logits_changes_nothing(seed, shift):
    """Adding a constant to a pixel's logits is no change of its probabilities."""
    logits, labels = case(seed)
    # Threshold 0: a pixel that rounding carries over a threshold would change the mean by a jump.
    shifted, _ = loss_and_gradient(logits + shift, labels, 0.0, 6)
    assert shifted == pytest.approx(loss_and_gradient(logits, labels, 0.0, 6)[0], rel=1e-4, abs=1e-5)


def assert_shares_add_up(logits, labels, sizes, *args):
    """Losses of the ranks sum to that of one rank, and their gradients are its rows: the same pixels are kept."""
    value, gradient = shares_and_gradients(
        lambda z, y, total: ohem_cross_entropy(z, y, *args, total=total), (logits, labels), sizes
    )
    expected, whole = loss_and_gradient(logits, labels, *args)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(gradient, whole, rtol=1e-5, atol=1e-9)
    assert torch.equal(gradient != 0, whole != 0)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
    st.floats(0, 1),
    st.integers(0, 120),
    st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    st.sampled_from([1.0, 10.0]),
)
def test_shares_of_ranks_add_up(seed, sizes, threshold, min_kept, ignored, grid):
    """However a global batch is split: min_kept beyond the valid pixels, ties, ranks without any valid pixel."""
    logits, labels = case(seed, batch=sum(sizes), ignored=ignored)
    logits = np.round(logits * grid) / grid  # on the coarse grid many pixels are equal
    assert_shares_add_up(logits, labels, sizes, threshold, min_kept)


@pytest.mark.parametrize("min_kept", [0, 1, 7, 15, 16, 10_000])
def test_a_rank_without_a_valid_pixel(min_kept):
    """It takes part in the count, its share is 0 with a zero gradient, and the others bear the whole loss."""
    logits, labels = case(batch=3, ignored=0)
    labels[1] = IGNORE
    assert_shares_add_up(logits, labels, [1, 1, 1], 0.0, min_kept)


def test_min_kept_counts_the_pixels_of_all_ranks():
    """Where one rank holds all hard pixels the other keeps none, though each would keep some of its own."""
    labels = np.zeros((2, 1, 4), np.int64)
    logits = np.zeros((2, 2, 1, 4))
    logits[:, 0] = [[[0.1, 0.2, 0.3, 0.4]], [[5.1, 5.2, 5.3, 5.4]]]
    _, gradient = shares_and_gradients(
        lambda z, y, total: ohem_cross_entropy(z, y, 0.0, 3, total=total), (logits, labels), [1, 1]
    )
    assert (gradient.abs().sum(dim=1) > 0).squeeze(1).tolist() == [[True, True, True, False], [False] * 4]


def test_a_rank_gone_nan_is_not_hidden():
    """A NaN on one rank makes the sum of the shares NaN, so that all ranks can stop."""
    logits, labels = case(batch=2, ignored=0)
    logits[1, 2, 0, 0] = np.nan
    value, _ = shares_and_gradients(
        lambda z, y, total: ohem_cross_entropy(z, y, 0.0, 1, total=total), (logits, labels), [1, 1]
    )
    assert value.isnan()
