"""Cost and speed: what is printed and written."""

import json

import pytest

from mkd.benchmarks.network import measure_cost, measure_speed
from mkd.benchmarks.settings import CostRun, SpeedRun
from mkd.config.load import load


def test_cost_of_the_papers_network(tmp_path, capsys):
    """HRNetV2-W48 + PSA at 1024 x 1024 and 6 classes: 79.9 M parameters, 1260.8 GMAC, with the input size."""
    file = tmp_path / "cost.json"
    measure_cost(load(CostRun, "cost", ["model=hrnet_w48_psa", "size=1024", f"json={file}"]))
    found = json.loads(file.read_text())
    assert set(found) == {"parameters", "gmac", "size"}
    assert found["gmac"] == pytest.approx(1260.8, rel=3e-3)
    assert found["parameters"] == pytest.approx(79.9e6, rel=3e-3)
    assert found["size"] == 1024
    text = capsys.readouterr().out
    for part in ("hrnet_w48 + PSA", "6 classes", "1024 x 1024", "79.9", "1260."):
        assert part in text


def test_speed_of_a_small_network(tmp_path, capsys):
    """Every figure is positive, they agree with each other, and all that is printed is written."""
    file = tmp_path / "speed.json"
    quick = ["model=lite0", "size=32", "batch=2", "seconds=0.01", "device=cpu", f"json={file}"]
    measure_speed(load(SpeedRun, "speed", quick))
    found = json.loads(file.read_text())
    assert (found["device"], found["size"], found["batch"]) == ("cpu", 32, 2)
    assert all(v > 0 for v in found.values() if not isinstance(v, str))
    images_a_second = found["batch"] / found["train_step_seconds"]
    ratio = (found["train_tflops"] / images_a_second) / (found["inference_tflops"] / found["fps"])
    assert ratio == pytest.approx(3)  # an image's training step counts as three forward passes
    printed = capsys.readouterr().out
    assert all(name in printed for name in found)
