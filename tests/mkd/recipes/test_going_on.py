"""Runs that go on with other data, another run's checkpoint, other threads, or a model folder that is junk."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mkd.config.schema import EvaluateRun
from mkd.geo.grid import Window
from mkd.geo.raster import RasterWriter
from mkd.recipes import factories
from mkd.recipes.evaluate import evaluate
from mkd.recipes.semi import semi
from mkd.recipes.supervised import supervised
from tests.helpers.shards import write_dataset
from tests.helpers.training.runs import coloured, digests, launch


@pytest.fixture(scope="module")
def ended(config_of, tmp_path_factory):
    """Two ended runs that differ in their seed: folders, to be copied."""
    root = tmp_path_factory.mktemp("ended")
    for seed in range(2):
        supervised(config_of("supervised", f"out={root / str(seed)}", "steps=2", f"seed={seed}"))
    return root


@pytest.fixture
def stopped(ended, config_of, sets, tmp_path):
    """A copy of the first run whose model folder is not written yet, on a copy of its tiles; as a function of keys."""
    run, tiles = tmp_path / "run", tmp_path / "tiles"
    shutil.copytree(sets["labelled"], tiles)

    def config(*overrides):
        given = [f"out={run}", "steps=2", f"data.labelled={tiles}", *overrides]
        return config_of("supervised", *given)

    supervised(config())
    shutil.rmtree(run / "model")
    return config, run, tiles


def test_replaced_tiles_between_two_starts(stopped, capsys):
    """Another data set in the same place is refused before a step is trained, and goes on with accept=[data]."""
    config, run, tiles = stopped
    shutil.rmtree(tiles)
    write_dataset(tiles, coloured(6, seed=9))
    before = digests(run)
    with pytest.raises(
        ValueError, match=rf"data\.labelled={tiles} is not the data set that this run was begun with"
    ):
        supervised(config())
    assert digests(run) == before
    capsys.readouterr()
    supervised(config("accept=[data]"))
    assert f"accept=[data]: data.labelled={tiles} is not the data set" in capsys.readouterr().out
    assert (run / "model" / "model.yaml").is_file()


def test_a_replaced_start_model(ended, config_of, tmp_path, capsys):
    """Another model in the place of the one that a killed run starts from is refused before a step is trained."""
    source = tmp_path / "source"
    shutil.copytree(ended / "0" / "model", source)
    config = config_of("supervised", f"out={tmp_path / 'run'}", "steps=2", f"student_init={source}")
    supervised(config)
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.copy(ended / "1" / "model" / "model.safetensors", source)
    before = digests(tmp_path / "run")
    with pytest.raises(ValueError, match=rf"student_init={source} is not the model that this run was begun"):
        supervised(config)
    assert digests(tmp_path / "run") == before
    capsys.readouterr()
    shutil.copy(ended / "0" / "model" / "model.safetensors", source)
    supervised(config)
    assert "accept=" not in capsys.readouterr().out


def test_a_replaced_validation_set(stopped):
    """The same for any data set that the run opens."""
    config, run, _ = stopped
    inputs = json.loads((run / "inputs.json").read_text())
    assert inputs["data"].keys() == {"data.labelled", "data.val"}
    inputs["data"]["data.val"] = "0" * 64  # what the run was begun with
    (run / "inputs.json").write_text(json.dumps(inputs))
    with pytest.raises(ValueError, match=r"data\.val=.* is not the data set"):
        supervised(config())


def test_another_runs_checkpoint(stopped, ended, capsys):
    """A latest.pt of another seed, in the place of the run's own, is refused; and goes on with accept=[checkpoint]."""
    config, run, _ = stopped
    latest = run / "checkpoints" / "student" / "latest.pt"
    shutil.copy(ended / "1" / "checkpoints" / "student" / "latest.pt", latest)
    with pytest.raises(ValueError, match=r"latest\.pt is of another run"):
        supervised(config())
    assert not (run / "model").exists()
    supervised(config("accept=[checkpoint]"))
    assert "accept=[checkpoint]: " in capsys.readouterr().out


def test_other_threads_are_said(stopped, capsys):
    """On a CPU another number of threads is a line that exactness ends; the same number is none."""
    config, run, _ = stopped
    path = run / "versions.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps(written | {"threads": 99}))
    supervised(config())
    said = capsys.readouterr().out
    assert (
        f"WARNING: threads 99 then, {torch.get_num_threads()} now: the numbers are no longer, to the bit"
        in said
    )
    shutil.rmtree(run / "model")
    path.write_text(json.dumps(written))
    supervised(config())
    assert "WARNING" not in capsys.readouterr().out


def test_a_run_of_an_older_version_goes_on(stopped):
    """A run folder without inputs.json, and a checkpoint without a name, are gone on with, and get both."""
    config, run, _ = stopped
    (run / "inputs.json").unlink()
    latest = run / "checkpoints" / "student" / "latest.pt"
    state = torch.load(latest, weights_only=True)
    torch.save({k: v for k, v in state.items() if k not in ("run", "phase")}, latest)
    supervised(config())
    assert json.loads((run / "inputs.json").read_text())["data"].keys() == {"data.labelled", "data.val"}


@pytest.mark.parametrize("junk", ["", "classes: [a]", "a: &a [*a]", "[" * 9999])
def test_a_junk_model_is_no_end(stopped, junk):
    """A model.yaml that is none, in the place of the run's, is a sentence with what to delete: not 'has ended'."""
    config, run, _ = stopped
    (run / "model").mkdir()
    (run / "model" / "model.yaml").write_text(junk)
    with pytest.raises(
        ValueError, match=rf"model\.yaml: not a model card .* delete {re.escape(str(run))}/model"
    ):
        supervised(config())
    shutil.rmtree(run / "model")
    supervised(config())
    (run / "model" / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"model\.safetensors: cannot be read"):
        supervised(config())


@pytest.mark.parametrize("drop", ["step", "model", "optimizer", "step_state", "refers", "best"])
def test_a_checkpoint_without_a_key(stopped, drop):
    """Each key that resume needs is named when it is missing."""
    config, run, _ = stopped
    latest = run / "checkpoints" / "student" / "latest.pt"
    state = torch.load(latest, weights_only=True)
    torch.save({k: v for k, v in state.items() if k != drop}, latest)
    with pytest.raises(ValueError, match=rf"latest\.pt: damaged checkpoint \(it lacks '{drop}'\)"):
        supervised(config())


def test_nan_weights_are_refused(runs, sets, tmp_path, capsys):
    """A model folder with a NaN is refused by evaluate and predict, in one line, and nothing is written."""
    folder = tmp_path / "model"
    shutil.copytree(Path(runs["semi"].out) / "model", folder)
    weights = load_file(folder / "model.safetensors")
    name = next(n for n, t in weights.items() if t.is_floating_point() and t.numel() > 1)
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, folder / "model.safetensors")
    typed = {"evaluate": [f"data={sets['val']}", f"out={tmp_path}/r.json"]}
    with RasterWriter(tmp_path / "x.tif", 40, 40, 3, "uint8") as raster:
        raster.write(Window(0, 0, 40, 40), np.zeros((40, 40, 3), np.uint8))
    typed["predict_map"] = [f"input={tmp_path}/x.tif", f"output={tmp_path}/y.tif"]
    for script, words in typed.items():
        assert launch(script, f"model={folder}", *words, "device=cpu") == 2
        err = capsys.readouterr().err
        assert f"the tensor {name} holds NaN or infinity" in err
        assert "Traceback" not in err
    assert {p.name for p in tmp_path.iterdir()} == {"model", "x.tif"}


@pytest.mark.parametrize("device", ["mps", "meta", "xla", "cpu:x", "gpu"])
def test_other_devices_are_refused(runs, sets, tmp_path, capsys, device):
    """What torch knows and this program does not is refused with what it does."""
    typed = [f"model={runs['semi'].out}/model", f"data={sets['val']}", f"out={tmp_path}/r.json"]
    assert launch("evaluate", *typed, f"device={device}") == 2
    assert "choose cpu, cuda or cuda:N" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_collapse_goes_back_and_ends(config_of, tmp_path, capsys):
    """Pseudo-labels that a large step drives into one class: the run goes back, halves the weight, and gives up.

    A network is trained until it tells the classes apart. Then L_cons with a weight of 8, at a learning rate that its
    own labels confirm, drives every pixel into one class within a step: five rows later the run goes back to the
    checkpoint of step 1, three times, and ends in a sentence, with that checkpoint the latest one.
    """
    for seed, name in enumerate(("lab", "unl"), 1):
        write_dataset(tmp_path / name, coloured(8, seed=seed), labelled=name == "lab")
    sets = {name: tmp_path / name for name in ("lab", "unl")}
    common = [f"data.labelled={sets['lab']}", "data.val=null", "log_every=1"]
    supervised(config_of("supervised", *common, f"out={tmp_path}/start", "steps=60", "optim.lr=3e-3"))
    given = [
        f"semi.start={tmp_path}/start/model",
        f"data.unlabelled={sets['unl']}",
        "semi.on_collapse=rollback",
    ]
    strong = [
        "semi.weight=8",
        "optim.name=sgd",
        "optim.lr=0.05",
        "semi.ema_decay=0.5",
        "semi.confidence=0.34",
    ]
    often = ["semi.drop_start=0", "save_every=1", "steps=24", f"out={tmp_path}/semi"]
    capsys.readouterr()
    with pytest.raises(ValueError, match="have collapsed: .* after 3 rollbacks; raise semi.confidence"):
        semi(config_of("semi", *common, *given, *strong, *often))
    said = capsys.readouterr().out
    assert [f"rollback {n} to step 1" in said for n in (1, 2, 3, 4)] == [True, True, True, False]
    assert said.count("going on from step 1 of 24") == 3
    state = torch.load(tmp_path / "semi" / "checkpoints" / "semi" / "latest.pt", weights_only=True)
    assert state["step_state"]["health"]["rollbacks"] == 3
    lines = (tmp_path / "semi" / "metrics.jsonl").read_text().splitlines()
    shares = [max(row["kept"].values()) / sum(row["kept"].values()) for row in map(json.loads, lines)]
    assert shares[0] < 0.95 < min(shares[1:])


def test_evaluate_says_what_is_not_finite(sets, runs, tmp_path, monkeypatch):
    """Finite weights whose output overflows are no map of the first class."""
    model, card = factories.load_checked("model", f"{runs['semi'].out}/model")
    model.classifier.weight.data.fill_(3e38)
    monkeypatch.setattr(factories, "load_checked", lambda *a: (model, card))
    config = EvaluateRun(
        model=[f"{runs['semi'].out}/model"], data=sets["val"], out=f"{tmp_path}/r.json", device="cpu"
    )
    with pytest.raises(ValueError, match=r"output is not finite at [\d,]+ pixels"):
        evaluate(config)
    assert not (tmp_path / "r.json").exists()
