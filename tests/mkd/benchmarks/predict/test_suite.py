"""The benchmark of maps, all of it on a small scene."""

import json

import pytest

from mkd.benchmarks.network import write_random_model
from mkd.benchmarks.predict.suite import compared_maps, measure_predict, scene_files, table
from mkd.benchmarks.settings import PredictSpeedRun
from mkd.config.load import load

SMALL = ["model=lite0", "scene=96", "tile=64", "overlap=16", "rounds=2", "device=cpu", "peers=null"]


def small(tmp_path, *overrides):
    return load(PredictSpeedRun, "predict", [f"out={tmp_path}/out", *SMALL, *overrides])


def test_maps_are_measured_and_compared(tmp_path, capsys):
    """Ratios of the rounds, maps that are made anew each time, and what the labels say of them."""
    file = tmp_path / "found.json"
    config = small(tmp_path, f"json={file}", "parts=[rate]")
    measure_predict(config)
    found, printed = json.loads(file.read_text()), capsys.readouterr().out
    rounds = found["rounds"]
    for name, below in (("predict_vs_forward", "bare forward"), ("predict_vs_plain", "plain")):
        ratios = [a / b for a, b in zip(rounds["ours"], rounds[below], strict=True)]
        assert found[name] == pytest.approx(sum(ratios) / 2)
    for rate, seconds in zip(rounds["ours"], found["command_seconds"], strict=True):
        assert 0 < 96**2 / 1000 / rate <= seconds  # the map is a part of its command
    # The same network: but for pixels where the blend's weights decide, the same map.
    assert found["same_class"] > 0.5
    assert found["miou_difference"] == pytest.approx(abs(found["miou"]["ours"] - found["miou"]["plain"]))
    assert "random weights: mIoU means nothing" in printed
    assert "miou_difference" not in printed
    files = scene_files(config)
    assert compared_maps({**files, "ours": files["labels"], "plain": files["labels"]}) == {
        "miou": {"ours": 100.0, "plain": 100.0},
        "miou_difference": 0.0,
        "same_class": 1.0,
    }


def test_the_table_asks_for_equal_accuracy_of_trained_weights(tmp_path):
    """Half a percentage point is missed; smp's windows become pixels of the scene, its versions are shown."""
    config = PredictSpeedRun(scene=1024, tile=512, overlap=0, weights="model")
    smp = {"windows_per_s": 2.0, "encoder": "resnet101", "versions": {"torch": "9.9"}}
    found = {"miou": {"ours": 70.0, "plain": 70.5}, "miou_difference": 0.5, "same_class": 0.99, "smp": smp}
    lines = table(config, found).splitlines()
    assert [line.split()[-1] for line in lines[:3]] == ["measured", "measured", "MISSED"]
    assert "difference 0.50 percentage points; 99.00 % of the pixels" in lines[3]
    assert lines[4].split()[1:3] == ["DeepLabV3Plus", f"{2.0 * 512**2 / 1000:.1f}"]
    assert "resnet101" in lines[4]
    assert "torch 9.9" in lines[4]


def test_weights_of_other_classes_are_refused(tmp_path):
    """The scene's labels would mean nothing."""
    write_random_model(tmp_path / "model", "lite0", ["sea", "land"], [(0, 0, 0), (1, 1, 1)])
    with pytest.raises(
        ValueError, match=r"weights=.*model has the classes sea, land; the scene has background"
    ):
        scene_files(small(tmp_path, f"weights={tmp_path}/model"))


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("scene=63", "scene=63; at least 64 is allowed"),
        ("overlap=64", "overlap=64: less than tile=64 is allowed"),
        ("weights=/nowhere", "weights=/nowhere: no model.yaml"),
        ("peers=/nowhere/python", "make it with 'make peers', or give peers=null"),
        ("parts=[split]", "parts=split is not allowed"),
    ],
)
def test_bad_keys_are_refused(tmp_path, typed, message):
    """One sentence."""
    with pytest.raises(ValueError, match=message):
        small(tmp_path, typed)
