"""The summed confusion matrix against sets of pixels, and what a mean over images would say instead."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mkd.metrics.confusion import ConfusionMatrix
from tests.helpers import references


def case(seed=0, batch=3, classes=4, ignored=0.2):
    """Random predictions and labels, integer arrays (B,H,W), of which some labels are 255."""
    rng = np.random.default_rng(seed)
    predictions, labels = rng.integers(0, classes, (2, batch, 4, 5))
    labels[rng.random(labels.shape) < ignored] = 255
    return predictions, labels


def counted(predictions, labels, classes=4, **kwargs):
    matrix = ConfusionMatrix(classes, **kwargs)
    matrix.update(torch.as_tensor(predictions), torch.as_tensor(labels))
    return matrix


@pytest.mark.parametrize("seed", range(5))
def test_equals_sets_of_pixels(seed):
    """Counts are [truth][prediction] over valid pixels; IoU is that of each class's sets of pixels."""
    predictions, labels = case(seed)
    matrix = counted(predictions, labels)
    slow = references.iou(predictions, labels, 4)
    assert matrix.matrix.tolist() == references.confusion(predictions, labels, 4)
    assert matrix.iou().tolist() == pytest.approx(slow, nan_ok=True)
    assert matrix.miou() == pytest.approx(np.nanmean(slow))
    valid = labels != 255
    assert matrix.pixel_accuracy() == pytest.approx((predictions == labels)[valid].mean())


def test_rows_are_truth():
    """One road pixel taken for water counts in row road, column water."""
    matrix = counted([[[2]]], [[[1]]], 3)
    assert matrix.matrix.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_one_summed_matrix_is_not_a_mean_over_images():
    """A class that fills one image and is missed as one pixel of another weighs by its pixels."""
    labels = torch.zeros(2, 1, 100, dtype=torch.uint8)
    labels[0], labels[1, 0, 0] = 1, 1  # image 0 all class 1; image 1 a single pixel of it
    predictions = labels.clone()
    predictions[1, 0, 0] = 0
    matrix = counted(predictions, labels, 2)
    assert matrix.iou().tolist() == pytest.approx([99 / 100, 100 / 101])
    per_image = [counted(p[None], t[None], 2).miou() for p, t in zip(predictions, labels, strict=True)]
    assert np.mean(per_image) == pytest.approx((1 + (0.99 + 0) / 2) / 2)
    assert matrix.miou() - np.mean(per_image) > 0.2


def test_updates_add_up():
    """Batch by batch or all at once is the same matrix."""
    predictions, labels = (torch.as_tensor(a) for a in case(batch=5))
    matrix = ConfusionMatrix(4)
    for p, t in zip(predictions.split(2), labels.split(2), strict=True):
        matrix.update(p, t)
    assert torch.equal(matrix.matrix, counted(predictions, labels).matrix)


def test_an_absent_class_is_nan_and_left_out():
    """A class without a label is NaN even when it was predicted, and does not pull the mean down."""
    matrix = counted([[[0, 0, 2, 1]]], [[[0, 0, 0, 1]]], 3)
    assert matrix.iou().tolist() == pytest.approx([2 / 3, 1.0, math.nan], nan_ok=True)
    assert matrix.miou() == pytest.approx((2 / 3 + 1) / 2)
    assert matrix.pixel_accuracy() == pytest.approx(3 / 4)


def test_a_present_class_that_is_never_found_is_zero():
    """Missing every pixel of a class is an IoU of 0, not NaN."""
    assert counted([[[0, 0]]], [[[0, 1]]], 2).iou().tolist() == pytest.approx([0.5, 0.0])


@pytest.mark.parametrize("labels", [[[[255, 255]]], [[[]]]])
def test_nothing_seen_is_nan(labels):
    """Without a valid pixel there is no IoU, no mean and no accuracy: NaN, not 0."""
    labels = torch.tensor(labels, dtype=torch.uint8)
    for matrix in (ConfusionMatrix(2), counted(torch.zeros_like(labels), labels, 2)):
        assert matrix.iou().isnan().all()
        assert math.isnan(matrix.miou())
        assert math.isnan(matrix.pixel_accuracy())


def test_a_single_class():
    """With one class every valid pixel is right."""
    matrix = counted([[[0, 0]]], [[[0, 255]]], 1)
    assert (matrix.miou(), matrix.pixel_accuracy(), matrix.matrix.tolist()) == (1.0, 1.0, [[1]])


def test_predictions_at_ignored_pixels_do_not_matter():
    """Where the label is ignored even an impossible prediction passes."""
    assert counted([[[0, 77]]], [[[0, 255]]], 2).matrix.sum() == 1


def test_another_ignore_index():
    """The ignored id is the one that was passed."""
    assert counted([[[0, 1]]], [[[0, 9]]], 2, ignore_index=9).matrix.tolist() == [[1, 0], [0, 0]]


def test_counts_are_exact_beyond_float_precision():
    """Counts are integers: 2^60 pixels and one more are not rounded to 2^60."""
    matrix = ConfusionMatrix(2)
    matrix.matrix[0, 0] = 2**60
    matrix.update(torch.zeros(1, 1, 1, dtype=torch.uint8), torch.zeros(1, 1, 1, dtype=torch.uint8))
    assert matrix.matrix[0, 0].item() == 2**60 + 1


@pytest.mark.parametrize(
    ("predictions", "labels", "sentence"),
    [
        ([[[0]]], [[[5]]], r"label 5 is not in 0\.\.2 nor 255"),
        ([[[-1]]], [[[0]]], r"prediction -1 is not in 0\.\.2"),
        ([[[3]]], [[[2]]], r"prediction 3 is not in 0\.\.2"),
        ([[[0, 0]]], [[[0]]], r"\(1, 1, 2\).*\(1, 1, 1\)"),
    ],
)
def test_impossible_ids_are_refused_and_not_counted(predictions, labels, sentence):
    """An id outside the classes, or another shape, is said with its value and leaves the counts alone."""
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=sentence):
        matrix.update(torch.tensor(predictions), torch.tensor(labels))
    assert matrix.matrix.sum() == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(0, 1))
def test_iou_lies_between_zero_and_one(seed, classes, ignored):
    """IoU is in [0,1] or NaN, mIoU between the worst and the best class, and a perfect prediction is 1."""
    predictions, labels = case(seed, classes=classes, ignored=ignored)
    matrix = counted(predictions, labels, classes)
    present = matrix.iou()[~matrix.iou().isnan()]
    assert ((present >= 0) & (present <= 1)).all()
    assert matrix.matrix.sum() == (labels != 255).sum()
    if len(present):
        assert present.min() - 1e-12 <= matrix.miou() <= present.max() + 1e-12
        assert counted(np.where(labels == 255, 0, labels), labels, classes).miou() == 1
