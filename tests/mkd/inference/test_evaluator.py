"""One confusion matrix over all tiles, and what results.json says about it."""

import numpy as np
import pytest
import torch
from torch import nn

from mkd.distributed.world import World
from mkd.inference.evaluator import confusion, results
from mkd.loader.loader import TileSet
from mkd.metrics.confusion import ConfusionMatrix
from tests.helpers import references
from tests.helpers.shards import pictures, write_dataset

CPU = World(0, 1, torch.device("cpu"))


class Strongest(nn.Module):
    """Predicts 0, 1 or 2 where red, green or blue is strongest; notes how it was called."""

    def __init__(self):
        super().__init__()
        self.modes, self.batches, self.ranges = [], [], []

    def forward(self, images):
        self.modes.append(self.training)
        self.batches.append(tuple(images.shape))
        self.ranges.append((float(images.min()), float(images.max())))
        return images


def tile(guesses, truth):
    """Paint what `Strongest` shall guess, beside the truth."""
    image = np.zeros((*np.shape(guesses), 3), np.uint8)
    for c in range(3):
        image[np.array(guesses) == c, c] = 200
    return image, np.array(truth, np.uint8)


TILES = [
    tile([[0, 0, 1], [1, 1, 0]], [[0, 0, 1], [0, 1, 255]]),
    tile([[1, 1, 2], [0, 0, 0]], [[1, 255, 0], [0, 0, 1]]),
]
#     guessed  0  1  2
BY_HAND = [[4, 1, 1], [1, 3, 0], [0, 0, 0]]


@pytest.fixture
def found(tmp_path):
    tiles = TileSet(write_dataset(tmp_path / "two", TILES), labelled=True)
    model = Strongest().train()
    return model, confusion(model, tiles, 2, CPU, window=None)


def test_two_tiles_by_hand(found):
    """Rows are truth and columns predictions, summed over both tiles; 255 counts nowhere."""
    assert found[1].matrix.tolist() == BY_HAND


def test_the_network_is_asked_in_eval_mode_with_images_in_0_1(found):
    """Images come as float in [0,1], whole tiles in batches, and the network stays in eval mode."""
    model, _ = found
    assert model.modes == [False]
    assert model.batches == [(2, 3, 2, 3)]
    assert model.ranges == [(0.0, pytest.approx(200 / 255))]
    assert not model.training


def test_large_tiles_are_seen_in_windows(tmp_path):
    """With a window the network gets no larger image; one that looks at single pixels gives the same counts."""
    tiles = TileSet(write_dataset(tmp_path / "five", pictures(5, (20, 13), seed=3)), labelled=True)
    whole, windows = Strongest(), Strongest()
    expected = confusion(whole, tiles, 2, CPU, window=None)
    assert torch.equal(confusion(windows, tiles, 2, CPU, window=8).matrix, expected.matrix)
    assert {shape[2:] for shape in windows.batches} == {(8, 8)}


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_one_matrix_whatever_the_batch(tmp_path, batch):
    """The counts are those of the plain reference, summed over tiles, for any batch size."""
    pairs = pictures(5, (6, 7), seed=3)
    tiles = TileSet(write_dataset(tmp_path / "five", pairs), labelled=True)
    matrix = confusion(Strongest(), tiles, batch, CPU, window=None)
    guesses = np.stack([np.argmax(image, axis=2) for image, _ in pairs])
    truth = np.stack([ids for _, ids in pairs])
    assert matrix.matrix.tolist() == references.confusion(guesses, truth, 3)
    assert matrix.iou().tolist() == pytest.approx(references.iou(guesses, truth, 3))


def test_results_by_hand(found):
    """IoU by name, the mean over classes that are in the labels, accuracy, and the absent class listed as null."""
    content = results(found[1], ("field", "road", "water"), {"model": "m"})
    assert content == {
        "miou": pytest.approx((4 / 7 + 3 / 5) / 2),
        "iou": {"field": pytest.approx(4 / 7), "road": pytest.approx(3 / 5), "water": None},
        "absent": ["water"],
        "pixel_accuracy": pytest.approx(7 / 10),
        "confusion": BY_HAND,
        "provenance": {"model": "m"},
    }


def test_a_class_never_found_counts_as_0():
    """Present in the labels and never predicted right is IoU 0 in the mean; that is not the same as absent."""
    matrix = ConfusionMatrix(3)
    matrix.matrix += torch.tensor([[5, 0, 0], [2, 0, 0], [0, 0, 3]])
    content = results(matrix, ("a", "b", "c"), {})
    assert content["iou"] == {"a": pytest.approx(5 / 7), "b": 0.0, "c": 1.0}
    assert content["absent"] == []
    assert content["miou"] == pytest.approx((5 / 7 + 1) / 3)


def test_unlabelled_tiles_are_refused(tmp_path):
    """A set without labels cannot be evaluated on, and says how many tiles lack one."""
    folder = write_dataset(tmp_path / "bare", pictures(2), labelled=False)
    with pytest.raises(ValueError, match="2 of 2 tiles have no label"):
        TileSet(folder, labelled=True)
