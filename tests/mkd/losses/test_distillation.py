"""L_KD against a pixel loop, in its limits (sure teacher, T = 1, T -> infinity), its gradient, its laws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mkd.losses.distillation import distillation_loss
from tests.helpers import references
from tests.helpers.training.shares import shares_and_gradients


def case(seed=0, batch=2, classes=4, height=3, width=4, spread=2.0):
    """Random student logits, teacher logits (float64 arrays) and valid pixels (bool array)."""
    rng = np.random.default_rng(seed)
    shape = (batch, classes, height, width)
    return (
        rng.normal(0, spread, shape),
        rng.normal(0, spread, shape),
        rng.random((batch, height, width)) < 0.7,
    )


def loss_of(student, teacher, temperature=3.0, valid=None):
    z_s, z_t = (torch.as_tensor(z, dtype=torch.float32) for z in (student, teacher))
    return distillation_loss(z_s, z_t, temperature, None if valid is None else torch.as_tensor(valid)).item()


def gradients(student, teacher, temperature, valid):
    z_s, z_t = (torch.tensor(z, dtype=torch.float32, requires_grad=True) for z in (student, teacher))
    distillation_loss(z_s, z_t, temperature, torch.as_tensor(valid)).backward()
    return z_s.grad, z_t.grad


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_pixel_loop(seed, temperature):
    """The value is T^2 times the mean over valid pixels of the KL divergence summed over classes."""
    student, teacher, valid = case(seed)
    expected = references.distillation(student, teacher, temperature, valid)
    assert loss_of(student, teacher, temperature, valid) == pytest.approx(expected, rel=1e-4)


def test_no_mask_is_all_pixels():
    """Without a mask every pixel counts; the default temperature is the paper's 3."""
    student, teacher, valid = case()
    everything = np.ones_like(valid)
    assert loss_of(student, teacher) == pytest.approx(
        references.distillation(student, teacher, 3.0, everything), rel=1e-5
    )


def test_gradient_equals_finite_differences():
    """Backward is the derivative of the reference; masked pixels and the teacher get none."""
    student, teacher, valid = case(seed=4)
    gradient, to_teacher = gradients(student, teacher, 3.0, valid)
    expected = references.numeric_gradient(lambda z: references.distillation(z, teacher, 3.0, valid), student)
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-3, atol=1e-6)
    assert not gradient.movedim(1, -1)[torch.as_tensor(~valid)].any()
    assert to_teacher is None


def test_nothing_valid_is_zero_with_a_zero_gradient():
    """An empty mask gives exactly 0 and a gradient of exactly 0, not NaN."""
    student, teacher, valid = case()
    assert loss_of(student, teacher, 3.0, np.zeros_like(valid)) == 0
    gradient, _ = gradients(student, teacher, 3.0, np.zeros_like(valid))
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_one_class_has_nothing_to_learn():
    """With a single class both distributions are the same and the loss is 0."""
    student, teacher, valid = case(classes=1)
    assert loss_of(student, teacher, 3.0, valid) == 0


def test_a_sure_teacher_at_temperature_one_is_cross_entropy():
    """At T = 1 a teacher with all its mass on one class teaches like a hard label."""
    student, _, _ = case()
    labels = np.random.default_rng(9).integers(0, 4, (2, 3, 4))
    teacher = 100.0 * np.moveaxis(np.eye(4)[labels], -1, 1)
    assert loss_of(student, teacher, 1.0) == pytest.approx(
        references.cross_entropy(student, labels), rel=1e-5
    )


def test_a_high_temperature_matches_logits():
    """For T -> infinity the loss goes to half the mean square of the centred difference (Hinton 2015)."""
    student, teacher, _ = case()
    difference = (student - teacher) - (student - teacher).mean(axis=1, keepdims=True)
    assert loss_of(student, teacher, 100.0) == pytest.approx(0.5 * (difference**2).mean(), rel=0.02)


def test_more_pixels_or_classes_without_news_change_nothing():
    """The mean is over pixels, not over images and not over classes: METHOD's one named reduction."""
    student, teacher, _ = case()
    alone = loss_of(student, teacher)
    assert loss_of(np.tile(student, (3, 1, 1, 2)), np.tile(teacher, (3, 1, 1, 2))) == pytest.approx(
        alone, rel=1e-5
    )
    dead = np.full((2, 1, 3, 4), -1e4)  # a class that neither of them ever predicts
    assert loss_of(np.concatenate([student, dead], 1), np.concatenate([teacher, dead], 1)) == pytest.approx(
        alone, rel=1e-5
    )


def test_not_symmetric():
    """The teacher is the first argument of KL: exchanging the two gives another number."""
    student, teacher, valid = case()
    assert loss_of(student, teacher, 3.0, valid) != pytest.approx(
        loss_of(teacher, student, 3.0, valid), rel=1e-3
    )


def test_bfloat16_logits_are_compared_in_float32():
    """Under autocast the logits come as bfloat16; the loss is that of their values in float32."""
    student, teacher, valid = case()
    z_s, z_t = torch.tensor(student).bfloat16(), torch.tensor(teacher).bfloat16()
    loss = distillation_loss(z_s, z_t, 3.0, torch.tensor(valid))
    assert loss.dtype == torch.float32
    expected = references.distillation(z_s.double(), z_t.double(), 3.0, valid)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_far_apart_logits_stay_finite():
    """Logits 10,000 apart cost about T * 10,000, not infinity or NaN."""
    student, teacher = np.zeros((1, 2, 1, 1)), np.zeros((1, 2, 1, 1))
    student[0, 0], teacher[0, 1] = 1e4, 1e4
    assert loss_of(student, teacher, 3.0) == pytest.approx(3 * 1e4, rel=1e-5)


def test_other_class_sets_are_refused():
    """Logits of different shapes name both shapes instead of being broadcast."""
    with pytest.raises(ValueError, match=r"\(1, 3, 2, 2\).*\(1, 1, 2, 2\).*same classes"):
        distillation_loss(torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    """T must be > 0; the sentence says what was given and what the paper uses."""
    with pytest.raises(ValueError, match=f"temperature is {temperature}.*> 0"):
        distillation_loss(torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1), temperature)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.5, 10), st.floats(0, 5))
def test_never_below_zero(seed, temperature, distance):
    """KL is >= 0 (up to float32's rounding), also for logits that almost agree."""
    student, teacher, valid = case(seed)
    assert loss_of(teacher + distance * student, teacher, temperature, valid) >= -1e-7 * temperature**2 * 4


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.5, 10))
def test_equal_logits_cost_nothing(seed, temperature):
    """A student that says what the teacher says pays exactly 0 and gets no gradient."""
    _, teacher, valid = case(seed)
    assert loss_of(teacher, teacher, temperature, valid) == 0
    gradient, _ = gradients(teacher, teacher, temperature, valid)
    assert gradient.abs().max() < 1e-6


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(-20, 20), st.floats(-20, 20))
def test_a_shift_of_all_logits_changes_nothing(seed, of_student, of_teacher):
    """Adding a constant to all logits of either network is no change of its probabilities."""
    student, teacher, valid = case(seed)
    shifted = loss_of(student + of_student, teacher + of_teacher, 3.0, valid)
    assert shifted == pytest.approx(loss_of(student, teacher, 3.0, valid), rel=1e-3, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.2, 0.7, 1.0]),
    st.booleans(),
)
def test_shares_of_ranks_add_up(seed, sizes, share_valid, masked):
    """However a global batch is split, shares and gradients are those of its one mean over valid pixels."""
    student, teacher, _ = case(seed, batch=sum(sizes))
    valid = np.random.default_rng(seed).random((len(student), *student.shape[2:])) < share_valid
    valid[: sizes[0]] &= len(sizes) == 1  # of several ranks the first has no valid pixel

    def loss(z, z_t, ok, total):
        count = total(ok.sum() if masked else torch.tensor(ok.numel())).clamp(min=1)
        return distillation_loss(z, z_t.float(), 3.0, ok if masked else None, count)

    value, gradient = shares_and_gradients(loss, (student, teacher, valid), sizes)
    everything = valid if masked else np.ones_like(valid)
    expected, _ = gradients(student, teacher, 3.0, everything)
    assert value.item() == pytest.approx(loss_of(student, teacher, 3.0, everything), rel=1e-5, abs=1e-7)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)
