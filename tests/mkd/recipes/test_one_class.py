"""Labels of one class only: refused for training unless told, and no mIoU of 1.0000 in any line."""

import numpy as np
import pytest
import torch

from mkd.metrics.confusion import ConfusionMatrix
from mkd.recipes.evaluate import summary
from mkd.recipes.run import labelled_index
from mkd.recipes.supervised import supervised
from tests.helpers.shards import write_dataset
from tests.helpers.training.runs import coloured


@pytest.fixture
def one_class(tmp_path):
    """Three tiles of field, the rest ignored: what masks of 0 and 255 become."""
    pairs = coloured(3)
    for _, ids in pairs:
        ids[:] = np.where(ids == 0, 0, 255)
        ids[0, 0] = 0
    return write_dataset(tmp_path / "one", pairs)


@pytest.mark.parametrize("key", ["data.labelled", "data.val"])
def test_one_class_is_refused_for_training(config_of, one_class, tmp_path, key):
    """What all stages start with checks the labelled and the validation set, before there is a run folder."""
    options = [f"out={tmp_path / 'run'}", f"{key}={one_class}"]
    with pytest.raises(
        ValueError, match=rf"{key}={one_class} has pixels of one class only, 'field' \(of 3 classes\)"
    ):
        labelled_index(config_of("supervised", *options))
    assert labelled_index(config_of("supervised", *options, "data.one_class=true")).num_classes == 3
    assert not (tmp_path / "run").exists()


def test_a_run_says_what_its_labels_lack(config_of, one_class, tmp_path, capsys):
    """The start names classes without a pixel in both sets, and the validation line has words in place of 1.0000."""
    options = [f"out={tmp_path / 'run'}", f"data.val={one_class}", "data.one_class=true", "steps=2"]
    supervised(config_of("supervised", *options))
    said = capsys.readouterr().out
    assert f"note: data.val={one_class}: 2 of 3 classes have no pixel in the labels: road, water" in said
    assert "validation mIoU nan (one class only)" in said


def test_miou_in_words():
    """A mean over fewer than two classes is no number for people."""
    matrix = ConfusionMatrix(3)
    assert matrix.miou_text() == "nan (no label)"
    matrix.update(torch.zeros(1, 2, 2, dtype=torch.long), torch.zeros(1, 2, 2, dtype=torch.long))
    assert matrix.miou_text() == "nan (one class only)"
    matrix.update(torch.zeros(1, 2, 2, dtype=torch.long), torch.ones(1, 2, 2, dtype=torch.long))
    assert matrix.miou_text() == "0.2500"


def test_evaluate_prints_no_miou_over_one_class():
    """The line says so; the IoU of the class stands above it."""
    found = {"iou": {"a": 1.0, "b": None}, "absent": ["b"], "miou": 1.0, "pixel_accuracy": 1.0}
    found["calibration"] = {"temperature": 1.0}
    assert summary(found).splitlines()[-1].split() == [
        "mIoU",
        "nan",
        "(one",
        "class",
        "only)",
        "pixel",
        "accuracy",
        "1.0000",
    ]
