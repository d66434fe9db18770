"""Rows average evaluations as the formula says; results that do not fit are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mkd.report.content import Evaluation, Row


def evaluation(miou=0.5, iou=None):
    iou = iou or {"road": 0.5, "water": None}
    return Evaluation("x", miou, iou, 0.9, np.zeros((len(iou), len(iou)), np.int64), 3)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_mean_and_deviation_over_seeds(mious):
    """Mean and sample standard deviation are numpy's, with n - 1."""
    row = Row.from_evaluations("m", [evaluation(m) for m in mious], range(len(mious)))
    assert row.miou_mean == pytest.approx(np.mean(mious), abs=1e-12)
    assert row.miou_std == pytest.approx(np.std(mious, ddof=1), abs=1e-12)


def test_one_seed_has_no_deviation():
    """One run says nothing about the spread: None, not 0."""
    assert Row.from_evaluations("m", [evaluation(0.4)], [7]).miou_std is None


def test_a_class_is_averaged_where_it_is_present():
    """A class absent from one seed's test set keeps the others' mean; absent everywhere stays absent."""
    first = evaluation(iou={"road": 0.2, "car": None, "water": None})
    second = evaluation(iou={"road": 0.4, "car": 0.6, "water": None})
    row = Row.from_evaluations("m", [first, second])
    assert row.iou == {"road": pytest.approx(0.3), "car": 0.6, "water": None}


@pytest.mark.parametrize(("evaluations", "seeds"), [([], []), ([evaluation()], [0, 1])])
def test_runs_and_seeds_must_match(evaluations, seeds):
    """No evaluation, or another number of seeds, is a sentence."""
    with pytest.raises(ValueError, match=r"row 'm' has \d evaluations and \d seeds"):
        Row.from_evaluations("m", evaluations, seeds)


def test_results_json_becomes_an_evaluation():
    """The file's own content is enough, and its provenance is kept."""
    results = {
        "miou": 0.5,
        "iou": {"road": 0.5, "water": None},
        "pixel_accuracy": 0.75,
        "confusion": [[3, 1], [0, 0]],
        "samples": 2,
        "absent": ["water"],
        "provenance": {"commit": "abc"},
    }
    found = Evaluation.from_results("m", results)
    assert (found.miou, found.pixel_accuracy, found.samples) == (0.5, 0.75, 2)
    assert found.iou == {"road": 0.5, "water": None}
    assert found.confusion.tolist() == [[3, 1], [0, 0]]
    assert found.provenance == {"commit": "abc"}
    with pytest.raises(ValueError, match="results of 'm' lack miou, samples"):
        Evaluation.from_results("m", {k: v for k, v in results.items() if k not in ("miou", "samples")})
    with pytest.raises(ValueError, match="have 2 classes and a confusion matrix of 1 x 2"):
        Evaluation.from_results("m", results | {"confusion": [[3, 1]]})
