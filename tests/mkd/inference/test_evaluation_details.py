"""What results.json says beyond the IoU, from tiles whose predictions are known."""

import numpy as np
import pytest
import torch

from mkd.inference.evaluation_details import EvaluationDetails
from mkd.loader.loader import TileSet
from mkd.metrics.confusion import ConfusionMatrix
from tests.helpers.shards import CLASSES, pictures, write_dataset


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """12 tiles, of which number 5 is all wrong, number 3 half wrong, the others right; and what was summed."""
    tiles = TileSet(
        write_dataset(tmp_path_factory.mktemp("known") / "d", pictures(12, (8, 8))), labelled=True
    )
    details = EvaluationDetails(CLASSES, 12, torch.device("cpu"))
    whole = ConfusionMatrix(3)
    for sample in range(12):
        labels = tiles[(0, sample)][1][None]
        guess = torch.where(labels == 255, 0, labels).clone()
        if sample == 5:
            guess = (guess + 1) % 3
        if sample == 3:
            guess[:, :4] = (guess[:, :4] + 1) % 3
        p = torch.nn.functional.one_hot(guess.long(), 3).permute(0, 3, 1, 2).float() * 0.7 + 0.1
        details.update([sample], p, labels)
        whole.update(guess, labels)
    return tiles, details, whole


def test_the_worst_tiles(known):
    """In order of their right pixels, with key and number."""
    tiles, details, _ = known
    worst = details.to_json(tiles)["worst_tiles"]
    assert [(tile["sample"], tile["key"]) for tile in worst[:2]] == [(5, "tile0005"), (3, "tile0003")]
    assert worst[0]["pixel_accuracy"] == 0
    assert worst[-1]["pixel_accuracy"] == 1


def test_intervals_hold_the_estimate(known):
    """By source where there are ten or more; the interval holds the IoU of all tiles; equal seeds, equal intervals."""
    tiles, details, whole = known
    found = details.to_json(tiles)["interval"]
    assert (found["blocks"], found["number"], found["level"]) == ("source", 12, 0.95)
    low, high = found["miou"]
    assert low < whole.miou() < high <= 1
    for name, value in zip(CLASSES, whole.iou().tolist(), strict=True):
        assert found["iou"][name][0] <= value <= found["iou"][name][1]
    assert found == details.to_json(tiles)["interval"]
    # As drawn tile by tile, slowly.
    rng, values = np.random.default_rng(1), []
    for _ in range(400):
        drawn = ConfusionMatrix(3)
        drawn.matrix = sum(details.matrices[n] for n in rng.integers(0, 12, 12).tolist())
        values.append(drawn.miou())
    assert np.quantile(values, [0.025, 0.975]) == pytest.approx(found["miou"], abs=0.05)


def test_calibration_and_costs(known):
    """All pixels are 0.8 sure; the pairs that cost most come first, and only errors are among them."""
    tiles, details, whole = known
    found = details.to_json(tiles)
    assert found["calibration"]["ece"] == pytest.approx(abs(whole.pixel_accuracy() - 0.8), abs=1e-6)
    costs = [pair["miou"] for pair in found["costly_confusions"]]
    assert costs == sorted(costs, reverse=True)
    assert {(pair["truth"], pair["predicted"]) for pair in found["costly_confusions"]} == {
        ("field", "road"),
        ("road", "water"),
        ("water", "field"),
    }
    assert 0.8 < found["boundary_f1"]["mean"] < 1
