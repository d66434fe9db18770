"""Training runs from config to model folder: what they leave, what they refuse, and that they learn."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mkd.config.load import to_yaml
from mkd.model_folder import load_model
from mkd.recipes import factories
from mkd.recipes.distill import kd
from mkd.recipes.run_folder import open_run
from mkd.recipes.semi import semi
from mkd.recipes.supervised import supervised
from mkd.train.run.checkpoint import Checkpoints
from mkd.train.run.run_lock import RunLock, _start_ticks
from tests.helpers.shards import CLASSES, PALETTE, write_dataset
from tests.helpers.training.runs import coloured, digests, retitle, rows

STAGES = {"supervised": supervised, "kd": kd, "semi": semi}
PHASES = {"supervised": ["student"], "kd": ["teacher", "student"], "semi": ["semi"]}


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_run_leaves(runs, stage):
    """Config, versions, metrics, curves and checkpoints of each phase, and a model folder; no leftovers."""
    config = runs[stage]
    folder = Path(config.out)
    assert (folder / "config.yaml").read_text() == to_yaml(config)
    assert json.loads((folder / "versions.json").read_text())["torch"] == version("torch")
    phases = PHASES[stage]
    assert list(dict.fromkeys(r["phase"] for r in rows(folder))) == phases
    for phase in phases:
        assert (folder / "checkpoints" / phase / "latest.pt").is_file()
        assert list((folder / "tensorboard" / phase).iterdir())
    assert {p.name for p in (folder / "model").iterdir()} == {"model.safetensors", "model.yaml"}
    assert not list(folder.rglob(".tmp-*"))


@pytest.mark.parametrize("stage", STAGES)
def test_the_model_folder_says_what_it_is(runs, stage):
    """Classes and palette are the labelled set's; provenance names stage, seed, data and versions."""
    config = runs[stage]
    card = yaml.safe_load((Path(config.out) / "model" / "model.yaml").read_text())
    if stage != "supervised":
        assert (tuple(card["classes"]), tuple(map(tuple, card["palette"]))) == (CLASSES, PALETTE)
    about = card["provenance"]
    assert (about["stage"], about["seed"], about["data"]) == (stage, 0, config.data.labelled)
    assert about["versions"]["torch"] == version("torch")


def test_rows_have_the_names_of_the_stage(runs):
    """Each stage's rows hold its losses and shares by name, and validation IoU by class."""
    losses = {"loss", "loss_sup"}
    named = {
        "supervised": losses,
        "kd": losses | {"loss_kd", "loss_ewc"},
        "semi": losses | {"loss_cons", "kept_tiles", "kept_pixels", "tile_entropy", "class_shift", "kept"},
    }
    for stage, names in named.items():
        row = next(r for r in reversed(rows(runs[stage].out)) if "loss" in r)
        assert set(row) == names | {"phase", "step", "epoch", "lr"}
    valid = [r for r in rows(runs["semi"].out) if "val_miou" in r]
    assert [r["step"] for r in valid] == [0, 2, 4]  # the start competes
    assert set(valid[0]["val_iou"]) == set(CLASSES)


@pytest.mark.parametrize("stage", STAGES)
def test_an_ended_run_says_so_and_changes_nothing(runs, stage, capsys):
    """The same command on an ended run: one sentence with the model's place, and not a byte is touched."""
    config = runs[stage]
    before = digests(config.out)
    assert STAGES[stage](config) == Path(config.out)
    assert digests(config.out) == before
    assert f"this run has ended; its model is {config.out}/model" in capsys.readouterr().out


@pytest.mark.parametrize("stage", STAGES)
def test_another_config_is_refused(runs, stage):
    """A run folder keeps its config: another learning rate is refused with both values shown, nothing changed."""
    config = runs[stage]
    other = replace(config, optim=replace(config.optim, lr=0.5))
    before = digests(config.out)
    with pytest.raises(ValueError, match=r"there lr: 0\.000?[15]; now lr: 0\.5.*another out="):
        STAGES[stage](other)
    assert digests(config.out) == before


def test_the_best_validation_becomes_the_model(runs):
    """The model folder holds the checkpoint folder's best weights."""
    folder = Path(runs["kd"].out)
    best = load_file(folder / "checkpoints" / "student" / "best.safetensors")
    model = load_file(folder / "model" / "model.safetensors")
    assert all(torch.equal(t, best[n]) for n, t in model.items())


def test_without_validation_the_last_weights_become_the_model(runs, config_of, tmp_path, capsys):
    """No data.val: this is said, and the model is the last step's."""
    config = config_of("supervised", f"out={tmp_path}/run", "data.val=null", "steps=2")
    supervised(config)
    assert "data.val is not given, so the last weights are kept" in capsys.readouterr().out
    last = Checkpoints(tmp_path / "run" / "checkpoints" / "student").load()["model"]
    model = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.equal(t, last[n]) for n, t in model.items())


def test_a_run_says_what_it_does(config_of, tmp_path, capsys):
    """One line at the start: folder, phase, steps, batch, device, seed and tiles."""
    supervised(config_of("supervised", f"out={tmp_path}/run", "steps=1"))
    first = next(line for line in capsys.readouterr().out.splitlines() if "seed" in line)
    for part in (f"{tmp_path}/run", "student", "1 steps of 2 tiles", "cpu", "seed 0", "6 labelled tiles"):
        assert part in first


def test_a_small_problem_is_learnt(config_of, tmp_path):
    """DeepLabV3+ from random weights halves its loss in 30 steps on two tiles whose class shows in the colour."""
    two = write_dataset(tmp_path / "two", coloured(2, (32, 32), seed=9))
    fit = ["steps=30", "save_every=30", "optim.name=adamw", "optim.lr=3e-3", "data.scale=[1,1]"]
    plain = ["ohem.min_kept=1", "ohem.threshold=1", "data.aerial=false", "data.val=null"]
    supervised(
        config_of(
            "supervised", f"out={tmp_path}/run", f"data.labelled={two}", *fit, *plain, "model.dropout=[0,0]"
        )
    )
    losses = [r["loss"] for r in rows(tmp_path / "run")]
    assert sum(losses[-3:]) / 3 < losses[0] / 2


def test_a_run_can_start_from_a_model(runs, config_of, tmp_path):
    """student_init=MODEL starts with these weights: after a step of almost no length they are still there."""
    start = Path(runs["kd"].out) / "model"
    given = [f"student_init={start}", "steps=1", "optim.lr=1e-20", "data.val=null"]
    supervised(config_of("supervised", f"out={tmp_path}/run", *given))
    before, after = load_model(start)[0], load_model(tmp_path / "run" / "model")[0]
    theirs = dict(after.named_parameters())
    # a weight that is 0, of all things, moves by 1e-30
    assert all((p - theirs[n]).abs().max() < 1e-20 for n, p in before.named_parameters())


def refusal(run, config):
    """Return the sentence; nothing may have been written."""
    with pytest.raises(ValueError, match=r"\w") as caught:
        run(config)
    assert "\n" not in str(caught.value)
    assert not Path(config.out).exists()
    return str(caught.value)


def test_validation_of_other_classes(config_of, sets, tmp_path):
    """data.val must have the classes of data.labelled; both lists are shown."""
    text = refusal(supervised, config_of("supervised", f"out={tmp_path}/run", f"data.val={sets['source']}"))
    assert "4 classes (grass, path, lake, roof) but data.labelled has 3 (field, road, water)" in text


def test_data_of_other_classes_than_the_start(runs, config_of, sets, tmp_path):
    """A start model of other classes than the data is one sentence that names both and what to do."""
    other = [f"out={tmp_path}/run", f"data.labelled={sets['source']}", "data.val=null"]
    start = f"{runs['kd'].out}/model"
    text = refusal(semi, config_of("semi", *other, f"semi.start={start}"))
    assert f"data.labelled={sets['source']} has 4 classes" in text
    assert "use a data set and a model of the same classes" in text


def test_fine_tuning_with_other_classes(runs, config_of, sets, tmp_path):
    """student_init=MODEL of other classes is transfer learning: all its weights but a new classifier."""
    other = [
        f"out={tmp_path}/run",
        f"data.labelled={sets['source']}",
        "data.val=null",
        "steps=1",
        "optim.lr=1e-9",
    ]
    start = f"{runs['kd'].out}/model"
    supervised(config_of("supervised", *other, f"student_init={start}"))
    (before, _), (after, card) = load_model(start), load_model(f"{tmp_path}/run/model")
    assert card.classes == ("grass", "path", "lake", "roof")
    assert after.classifier.weight.shape[0] == 4
    for name, tensor in before.named_parameters():
        if not name.startswith("classifier."):
            torch.testing.assert_close(after.get_parameter(name), tensor, atol=1e-5, rtol=0)


def test_the_folder_names_the_crop_and_what_was_filled_in(runs):
    """model.yaml holds the crop, config.yaml the normalisation and the rates that null stood for."""
    for stage in ("supervised", "kd", "semi"):
        assert load_model(f"{runs[stage].out}/model")[1].crop == runs[stage].data.crop == 32
    written = yaml.safe_load(Path(runs["kd"].out, "config.yaml").read_text())["model"]
    assert written["mean"] == [0.5, 0.5, 0.5]
    assert len(written["aspp_rates"]) == 3


def test_the_same_number_of_classes_is_not_enough(runs, config_of, tmp_path):
    """Classes are compared by name and order."""
    other = retitle(write_dataset(tmp_path / "other", coloured(2)), ["road", "field", "water"])
    given = [f"data.labelled={other}", "data.val=null", f"semi.start={runs['kd'].out}/model"]
    assert "road, field, water" in refusal(semi, config_of("semi", f"out={tmp_path}/run", *given))


def test_a_start_of_another_architecture(runs, config_of, tmp_path):
    """student_init=MODEL with another network names each value that differs."""
    given = [f"student_init={runs['kd'].out}/model", "model.aspp_channels=48"]
    text = refusal(supervised, config_of("supervised", f"out={tmp_path}/run", *given))
    assert "aspp_channels 256 there, 48 here" in text


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        (["model.backbone=resnet9"], "resnet9"),
        (["model.dropout=[1.5,0]"], "dropout"),
        (["model.pretrained=bundled", "model.backbone=resnet101", "student_init=imagenet"], "bundled"),
    ],
)
def test_what_no_run_can_be_leaves_no_folder(config_of, tmp_path, overrides, word):
    """A network that cannot be built is refused before the run folder is made, so that the next try may use it."""
    with pytest.raises(ValueError, match=word):
        supervised(config_of("supervised", f"out={tmp_path}/run", *overrides))
    assert not (tmp_path / "run").exists()


def test_unlabelled_tiles_as_labelled_ones(config_of, sets, tmp_path):
    """Training on tiles without labels is refused with the number that lack one."""
    config = config_of(
        "supervised", f"out={tmp_path}/run", f"data.labelled={sets['unlabelled']}", "data.val=null"
    )
    with pytest.raises(ValueError, match="6 of 6 tiles have no label"):
        supervised(config)


def test_a_folder_that_somebody_writes(config_of, tmp_path, monkeypatch):
    """A living process owns the folder: refused, nothing is changed; when it is killed, the run is made."""
    monkeypatch.setattr("mkd.train.run.run_lock.EXIT_SECONDS", 0.2)
    config = config_of("supervised", f"out={tmp_path}/run", "steps=1", "data.val=null")
    factories.settle(config.model, factories.architecture(config.model, config.data.crop))
    owner = open_run(config) / "owner.json"
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    owner.write_text(
        json.dumps({**RunLock(owner).identity, "pid": child.pid, "started": _start_ticks(child.pid)})
    )
    before = digests(config.out)
    try:
        with pytest.raises(
            ValueError, match=f"being written by process {child.pid} .*, which lives; end that"
        ):
            supervised(config)
        assert digests(config.out) == before
    finally:
        child.kill()
    supervised(config)
    assert not owner.exists()
    assert (tmp_path / "run" / "model" / "model.yaml").is_file()


def test_a_run_that_fails_gives_the_folder_up(config_of, tmp_path):
    """An error in mid-run is no claim on the folder."""
    config = config_of("supervised", f"out={tmp_path}/run", "steps=1", "data.val=null", "optim.lr=1e30")
    config.steps = 4
    with pytest.raises(ValueError, match="not finite"):
        supervised(config)
    assert not (tmp_path / "run" / "owner.json").exists()


def test_a_run_shows_a_picture_at_each_validation(runs):
    """Steps of pictures are those of validations, read by TensorBoard itself."""
    log = EventAccumulator(f"{runs['semi'].out}/tensorboard/semi", {"images": 0, "scalars": 0})
    log.Reload()
    steps = [event.step for event in log.Scalars("val_miou")]
    assert steps
    assert [event.step for event in log.Images("val_tiles")] == steps
