"""Evaluating a model folder: what results.json says, and what is refused."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mkd.config.load import load
from mkd.config.schema import EvaluateRun
from mkd.dataset.index import read_index
from mkd.model_folder import load_model, read_card, save_model
from mkd.recipes.evaluate import distinct_names, evaluate, summary
from mkd.recipes.evaluation_report import evaluation_report
from tests.helpers.shards import pictures, write_dataset


@pytest.fixture(scope="module")
def road(runs, tmp_path_factory):
    """A model that says road (class 1) everywhere."""
    model, card = load_model(f"{runs['kd'].out}/model")
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    folder = tmp_path_factory.mktemp("road")
    save_model(folder, model.state_dict(), replace(card, provenance={}))
    return str(folder)


@pytest.fixture
def tiles(tmp_path):
    """Two tiles without water: 20 pixels of field, 8 of road, some ignored."""
    pairs = pictures(2, (4, 4))
    for n, (_, ids) in enumerate(pairs):
        ids[:] = 0
        ids[0] = 1
        ids[3, 3] = 255 if n == 0 else 0
        ids[2, 2] = 255
    pairs[1][1][3, 3] = 255
    return write_dataset(tmp_path / "tiles", pairs)


def ask(model, data, tmp_path, **more):
    model = model if isinstance(model, list) else [model]
    return EvaluateRun(model=model, data=data, out=str(tmp_path / "results.json"), device="cpu", **more)


def test_results_by_hand(road, tiles, tmp_path):
    """Figures of a known confusion; the absent class is null, listed, and left out of the mean."""
    found = evaluate(ask(road, tiles, tmp_path))
    assert json.loads((tmp_path / "results.json").read_text()) == found
    assert found["confusion"] == [[0, 20, 0], [0, 8, 0], [0, 0, 0]]
    assert found["iou"] == {"field": 0.0, "road": pytest.approx(8 / 28), "water": None}
    assert found["miou"] == pytest.approx(4 / 28)
    assert found["pixel_accuracy"] == pytest.approx(8 / 28)
    assert (found["absent"], found["samples"]) == (["water"], 2)


def test_provenance(road, tiles, tmp_path):
    """Which weights on which data with which versions."""
    about = evaluate(ask(road, tiles, tmp_path))["provenance"]
    weights = hashlib.sha256((Path(road) / "model.safetensors").read_bytes()).hexdigest()
    assert (about["model"], about["model_sha256"]) == (road, weights)
    assert (about["data"], about["data_index_sha256"]) == (tiles, read_index(tiles).sha256())
    assert {"commit", "versions"} <= set(about)
    assert about["versions"]["torch"]


def test_the_summary_says_the_absent_class(road, tiles, tmp_path):
    """Printed are IoU by class, 'absent' in words, mIoU and accuracy."""
    lines = summary(evaluate(ask(road, tiles, tmp_path))).splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["field", "0.0000"],
        ["road", "0.2857"],
        ["water", "absent"],
    ]
    assert lines[3] == "absent from the test set, left out of the mean: water"
    assert lines[4].split() == ["mIoU", "0.1429", "pixel", "accuracy", "0.2857"]


@pytest.mark.parametrize("batch", [1, 2])
def test_the_batch_changes_nothing(road, tiles, tmp_path, batch):
    """Results do not depend on how many tiles go through the network at once."""
    assert evaluate(ask(road, tiles, tmp_path, batch=batch))["confusion"][0][1] == 20


def refusal(config):
    with pytest.raises(ValueError, match=r"\w") as caught:
        evaluate(config)
    assert "\n" not in str(caught.value)
    assert not Path(config.out).exists()
    return str(caught.value)


def test_classes_of_model_and_data_must_agree(road, sets, tmp_path):
    """A data set of other classes is one sentence that names both sides."""
    text = refusal(ask(road, sets["source"], tmp_path))
    assert f"data={sets['source']} has 4 classes (grass, path, lake, roof)" in text
    assert f"model={road} has 3 (field, road, water)" in text


def test_unlabelled_data_is_refused(road, sets, tmp_path):
    """So is a data set without labels."""
    assert "6 of 6 tiles have no label" in refusal(ask(road, sets["unlabelled"], tmp_path))


def test_data_without_a_labelled_pixel_is_refused(road, tmp_path):
    """And one whose labels are all 255: such tiles count as unlabelled, so there is never a mean of nothing."""
    pairs = pictures(1, (4, 4))
    pairs[0][1][:] = 255
    assert "1 of 1 tiles have no label" in refusal(
        ask(road, write_dataset(tmp_path / "blank", pairs), tmp_path)
    )


def test_loaded_from_the_command_line(road, tiles, tmp_path):
    """model= and data= are folders here, although configs/model has files of the same kind of name."""
    argv = [f"model={road}", f"data={tiles}", f"out={tmp_path}/results.json", "batch=1", "device=cpu"]
    assert evaluate(load(EvaluateRun, "evaluate", argv))["samples"] == 2


def test_the_report_of_a_run(runs, sets, tmp_path):
    """report= of a model in a run folder is one page with its curves, figures, panels and config."""
    config = ask(f"{runs['kd'].out}/model", sets["val"], tmp_path, report=str(tmp_path / "report.html"))
    evaluate(config)
    evaluation_report(config)
    text = (tmp_path / "report.html").read_text()
    for part in ("road", "temperature: 3.0", "launch/evaluate.py", "<svg"):
        assert part in text


def test_the_report_of_a_lone_model(road, tiles, tmp_path):
    """A model folder that lies in no run folder has a page too."""
    config = ask(road, tiles, tmp_path, report=str(tmp_path / "report.html"))
    evaluate(config)
    evaluation_report(config)
    text = (tmp_path / "report.html").read_text()
    for part in (
        "water",
        "95 % interval",
        "Calibration, expected error",
        "The worst tiles",
        "field taken for road",
    ):
        assert part in text


@pytest.fixture
def unsure(road, tmp_path):
    """The model that says road everywhere, with logits 0, 8, 0: far too sure of its 8 pixels of 28."""
    model, card = load_model(road)
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([0.0, 8.0, 0.0]))
    save_model(tmp_path / "unsure", model.state_dict(), card)
    return str(tmp_path / "unsure")


def test_a_temperature_is_fitted_and_kept(unsure, tiles, tmp_path):
    """The most likely T says road with the share of road; classes stay; the next evaluation uses it."""
    weights = (Path(unsure) / "model.safetensors").read_bytes()
    pairs = pictures(2, (4, 4))
    for _, ids in pairs:
        ids[:] = 1
        ids[0] = 0
    val = write_dataset(tmp_path / "val", pairs)
    plain = evaluate(ask(unsure, val, tmp_path))
    assert plain["calibration"]["temperature"] == 1
    found = evaluate(ask(unsure, val, tmp_path, fit_temperature=True))
    # e^(8/T) / (e^(8/T) + 2) = 3/4, the share of road
    assert found["calibration"]["temperature"] == pytest.approx(8 / math.log(6), rel=5e-3)
    assert found["calibration"]["ece"] == pytest.approx(0, abs=5e-3)
    assert found["calibration"]["ece_unscaled"] == pytest.approx(plain["calibration"]["ece"])
    assert found["confusion"] == plain["confusion"]
    assert "without" in summary(found)
    card = read_card(unsure)
    assert card.temperature == found["calibration"]["temperature"]
    assert card.provenance["temperature"]["pixels"] == 32
    assert card.provenance["temperature"]["data"] == val
    assert (Path(unsure) / "model.safetensors").read_bytes() == weights
    again = evaluate(ask(unsure, tiles, tmp_path))["calibration"]
    assert again["temperature"] == card.temperature
    assert again["ece"] < again["ece_unscaled"]


def test_no_temperature_fits(unsure, tmp_path):
    """A validation set that is all right fits none: one sentence, and card and results stay as they were."""
    pairs = pictures(1, (4, 4))
    pairs[0][1][:] = 1
    card = (Path(unsure) / "model.yaml").read_bytes()
    config = ask(unsure, write_dataset(tmp_path / "easy", pairs), tmp_path, fit_temperature=True)
    assert "right almost everywhere" in refusal(config)
    assert (Path(unsure) / "model.yaml").read_bytes() == card


def test_models_side_by_side(road, unsure, runs, tiles, tmp_path):
    """Each model's results are those of it alone; two that say the same differ by 0, which is not shown."""
    other = f"{runs['kd'].out}/model"
    config = ask([road, unsure, other], tiles, tmp_path, report=str(tmp_path / "page.html"))
    found = evaluate(config)
    names = distinct_names(config.model)
    assert list(found["models"]) == names
    for name, path in zip(names, config.model, strict=True):
        assert found["models"][name] == evaluate(ask(path, tiles, tmp_path))
    same, third = found["differences"]
    assert (same["miou"], same["interval"], same["shown"]) == (0, [0, 0], False)
    first, last = (found["models"][name]["miou"] for name in (names[0], names[2]))
    assert third["miou"] == pytest.approx(last - first)
    assert third["interval"][0] <= third["miou"] <= third["interval"][1]
    assert summary(found).splitlines()[1].endswith("+0.0000 (+0.0000 to +0.0000), not shown")
    evaluate(config)
    evaluation_report(config)
    text = (tmp_path / "page.html").read_text()
    assert text.count("not shown") >= 1
    for name in names:
        assert f'<td class="name">{name}</td>' in text


def test_names_without_what_all_share():
    """Common folders at both ends go; one path alone keeps its last part."""
    assert distinct_names(["runs/a/seed0/model", "runs/b/seed0/model"]) == ["a", "b"]
    assert distinct_names(["runs/a/model", "old/b"]) == ["runs/a/model", "old/b"]
    assert distinct_names(["x/a", "x/a/model"]) == ["a", "a/model"]


@pytest.mark.parametrize(
    ("models", "more", "words"),
    [
        (2, [], "comes twice"),
        (0, [], "give a model folder"),
        (-2, ["fit_temperature=true"], "is for one model"),
    ],
)
def test_lists_that_do_not_do(road, unsure, tiles, tmp_path, models, more, words):
    """The same model twice, none, and a temperature for two."""
    given = {2: [road, road], 0: [], -2: [road, unsure]}[models]
    argv = [f"model=[{','.join(given)}]", f"data={tiles}", f"out={tmp_path}/r.json", *more]
    with pytest.raises(ValueError, match=words):
        load(EvaluateRun, "evaluate", argv)
