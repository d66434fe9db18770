"""The commands as a user types them: kill -9 and again, refusals in one sentence, the path from tiles to results."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from mkd.train.run.checkpoint import Checkpoints
from tests.helpers.shards import overwrite, write_dataset
from tests.helpers.training.runs import (
    LITE0,
    QUICK,
    RANDOM,
    ROOT,
    coloured,
    digests,
    finish,
    kill_once,
    launch,
    retitle,
    rows,
    start,
)

OFTEN = ("steps=10", "save_every=2", "val_every=4", "log_every=1")


pytestmark = pytest.mark.usefixtures("one_thread")  # bits are compared


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Tiny data sets, of which the source domain has other classes."""
    root = tmp_path_factory.mktemp("sets")
    found = {
        name: write_dataset(root / name, coloured(n, seed=seed), labelled=name != "unlabelled")
        for seed, (name, n) in enumerate({"labelled": 6, "unlabelled": 6, "val": 2, "source": 5}.items())
    }
    retitle(found["source"], ["grass", "path", "lake", "roof"])
    return found


@pytest.fixture(scope="module")
def commands(sets, tmp_path_factory):
    """What to type for each stage, without out=; later stages build on the runs of `whole`."""
    root = tmp_path_factory.mktemp("whole")
    base = [f"data.labelled={sets['labelled']}", f"data.val={sets['val']}", *QUICK, *OFTEN]
    source = [f"kd.source={root}/source/model", f"kd.source_data={sets['source']}"]
    teacher = ["kd.teacher_epochs=2", "kd.fisher_tiles=2", "kd.ewc_weight=1e-4"]
    start = [f"semi.start={root}/kd/model", f"data.unlabelled={sets['unlabelled']}"]
    return root, {
        "supervised": [*base, *RANDOM],
        "kd": [*base, *LITE0, *source, *teacher],
        "semi": [*base, *start, "semi.confidence=0.34", "semi.drop_start=0.5", "semi.result=teacher"],
    }


@pytest.fixture(scope="module")
def whole(commands, sets):
    """Each stage once, in this process and never stopped."""
    root, typed = commands
    one = ["steps=1", f"data.labelled={sets['source']}", "data.val=null"]
    assert launch("supervised", *typed["supervised"], *one, f"out={root}/source") == 0
    for stage, overrides in typed.items():
        assert launch(stage, *overrides, f"out={root}/{stage}") == 0
    return root


def same_end(run, whole, phase):
    """Model folder and metrics are those of the run never stopped; so are the very last weights and optimizer."""
    for name in ("model.safetensors", "model.yaml"):
        assert (run / "model" / name).read_bytes() == (whole / "model" / name).read_bytes(), name
    assert rows(run) == rows(whole)
    mine, theirs = (torch.load(f / "checkpoints" / phase / "latest.pt") for f in (run, whole))
    assert mine["step"] == theirs["step"]
    assert all(torch.equal(t, theirs["model"][n]) for n, t in mine["model"].items())
    momenta = [saved["optimizer"]["state"] for saved in (mine, theirs)]
    assert all(torch.equal(s["exp_avg"], momenta[1][n]["exp_avg"]) for n, s in momenta[0].items())


def killed(stage, out, phase, overrides):
    """Start a stage, kill -9 it once it has a checkpoint of this phase, and return the step that is saved."""
    folder = out / "checkpoints" / phase
    kill_once(start(stage, *overrides, f"out={out}"), (folder / "latest.pt").is_file)
    assert not (out / "model").exists()
    return Checkpoints(folder).load()["step"]


PHASES = {"supervised": "student", "kd": "student", "semi": "semi"}


@pytest.mark.parametrize(
    "stage", ["semi", *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("supervised", "kd"))]
)
def test_killed_and_started_again(commands, whole, tmp_path, stage, capsys):
    """kill -9 in each training stage; the same command goes on and ends with the same weights and metrics.

    The second start happens in this process, because starting one takes seconds; the slow tests start each anew.
    """
    _, typed = commands
    out = tmp_path / stage
    step = killed(stage, out, PHASES[stage], typed[stage])
    assert 0 < step < 10
    status, said = launch(stage, *typed[stage], f"out={out}"), capsys.readouterr().out
    assert status == 0, said
    assert f"{PHASES[stage]}: going on from step {step} of 10" in said
    assert said.splitlines()[-1] == f"model: {out}/model"
    same_end(out, whole / stage, PHASES[stage])


@pytest.mark.slow
def test_distillation_killed_in_both_phases(commands, whole, tmp_path):
    """kill -9 while the teacher is tuned and again while the student learns, each start a process."""
    _, typed = commands
    out = tmp_path / "kd"
    assert killed("kd", out, "teacher", typed["kd"]) < 6
    assert not (out / "teacher").exists()
    assert killed("kd", out, "student", typed["kd"]) < 10
    status, said = finish(start("kd", *typed["kd"], f"out={out}"))
    assert status == 0, said
    same_end(out, whole / "kd", "student")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["supervised", "semi"])
def test_killed_thrice(commands, whole, tmp_path, stage):
    """Killed, and killed again as soon as the next checkpoint is there, and again."""
    _, typed = commands
    out = tmp_path / stage
    latest = out / "checkpoints" / PHASES[stage] / "latest.pt"
    killed(stage, out, PHASES[stage], typed[stage])
    for _ in range(2):
        before = latest.stat().st_mtime_ns
        process = start(stage, *typed[stage], f"out={out}")
        kill_once(process, lambda then=before: latest.stat().st_mtime_ns != then)
    status, said = finish(start(stage, *typed[stage], f"out={out}"))
    assert status == 0, said
    same_end(out, whole / stage, PHASES[stage])


@pytest.mark.parametrize("stage", PHASES)
def test_an_ended_run_says_so(commands, whole, stage, capsys):
    """The command of an ended run ends well, names the model, and changes nothing."""
    _, typed = commands
    before = digests(whole / stage)
    assert launch(stage, *typed[stage], f"out={whole}/{stage}") == 0
    assert "this run has ended" in capsys.readouterr().out
    assert digests(whole / stage) == before


def refused(capsys, script, *overrides):
    """Run a command that must end with status 2 and one line on stderr; return the line."""
    capsys.readouterr()
    status = launch(script, *overrides)
    err = capsys.readouterr().err
    assert status == 2
    assert err.count("\n") == 1
    assert err.startswith(f"{script}: ")
    return err


def test_a_folder_of_another_config(commands, whole, capsys):
    """Another seed in the same folder is refused with the difference, and nothing changes."""
    _, typed = commands
    before = digests(whole / "kd")
    text = refused(capsys, "kd", *typed["kd"], f"out={whole}/kd", "seed=4")
    assert "there seed: 0; now seed: 4" in text
    assert digests(whole / "kd") == before


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["optim.lrr=1"], ["unknown key 'optim.lrr'", "optim.lr"]),
        (["data.crop=big"], ["data.crop=big", "Integer"]),
        (["data.labelled=nowhere"], ["data.labelled=nowhere", "no such folder"]),
        (["student_init=imagenet"], ["student_init=imagenet", "model.pretrained"]),
        (["device=cuda:7"], ["device=cuda:7"]),
    ],
)
def test_mistakes_end_in_one_sentence(commands, tmp_path, capsys, overrides, parts):
    """A typo, a wrong type, a missing path, an impossible pair, an absent device: one line, no run folder."""
    if "cuda" in overrides[0] and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    _, typed = commands
    text = refused(capsys, "supervised", *typed["supervised"], f"out={tmp_path}/run", *overrides)
    assert all(part in text for part in parts)
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_ends_in_one_sentence(commands, whole, tmp_path, capsys):
    """Going on from a truncated checkpoint names the file; without it the run starts again and ends the same."""
    _, typed = commands
    out = tmp_path / "run"
    shutil.copytree(whole / "supervised", out)
    shutil.rmtree(out / "model")
    text = (out / "config.yaml").read_text().replace(f"out: {whole}/supervised", f"out: {out}")
    (out / "config.yaml").write_text(text)
    latest = out / "checkpoints" / "student" / "latest.pt"
    latest.write_bytes(latest.read_bytes()[:1000])
    text = refused(capsys, "supervised", *typed["supervised"], f"out={out}")
    assert f"{latest}: damaged checkpoint" in text
    assert "delete it" in text
    latest.unlink()
    assert launch("supervised", *typed["supervised"], f"out={out}") == 0
    same_end(out, whole / "supervised", "student")


def test_a_diverging_run_ends_in_one_sentence(commands, tmp_path, capsys):
    """A learning rate that gives NaN: one line with the fix, and whatever is saved is finite."""
    _, typed = commands
    text = refused(
        capsys, "supervised", *typed["supervised"], f"out={tmp_path}/run", "optim.lr=1e30", "save_every=1"
    )
    assert "is not finite" in text
    assert "optim.lr" in text
    saved = Checkpoints(tmp_path / "run" / "checkpoints" / "student").load()
    assert saved is None or all(t.isfinite().all() for t in saved["model"].values())


def test_a_damaged_tile_ends_in_one_sentence(commands, sets, tmp_path, capsys):
    """A tile whose bytes have changed is named with its shard, from a decoding process too."""
    _, typed = commands
    bad = tmp_path / "bad"
    shutil.copytree(sets["labelled"], bad)
    shard = overwrite(bad, 520, bytes(380))  # inside the first image
    overrides = [f"data.labelled={bad}", f"out={tmp_path}/run", "data.val=null", "data.workers=1"]
    text = refused(capsys, "supervised", *typed["supervised"], *overrides)
    assert shard.name in text
    assert "has changed" in text


def test_from_model_to_results(whole, sets, tmp_path, capsys):
    """launch/evaluate.py writes results.json and a report, and prints IoU by class."""
    out = tmp_path / "results.json"
    typed = [f"model={whole}/semi/model", f"data={sets['val']}", f"out={out}", "device=cpu"]
    assert launch("evaluate", *typed, f"report={tmp_path}/report.html") == 0
    text = capsys.readouterr().out
    found = json.loads(out.read_text())
    assert f"mIoU  {found['miou']:.4f}" in text
    assert all(name in text for name in found["iou"])
    assert (tmp_path / "report.html").stat().st_size > 1000
    other = refused(capsys, "evaluate", f"model={whole}/semi/model", f"data={sets['source']}", f"out={out}.2")
    assert "4 classes" in other
    assert not Path(f"{out}.2").exists()


def test_cost(tmp_path, capsys):
    """launch/throughput.py cost takes the classes as a number and writes parameters, GMAC and size."""
    typed = ["cost", "model=lite0", "size=64", "classes=6", f"json={tmp_path}/cost.json"]
    assert launch("throughput", *typed) == 0
    assert set(json.loads((tmp_path / "cost.json").read_text())) == {"parameters", "gmac", "size"}
    assert "64 x 64" in capsys.readouterr().out
    assert "choose cost, speed, step, predict, data, teacher, scaling or all" in launch("throughput", "coast")


def test_no_script_hides_an_installed_module():
    """A script's folder is first on sys.path, so none may bear the name of a module that anyone imports."""
    names = {p.stem for p in (ROOT / "launch").glob("*.py")}
    assert names >= {
        "kd",
        "semi",
        "supervised",
        "evaluate",
        "predict_map",
        "experiment",
        "demo",
        "throughput",
    }
    assert not names & set(sys.stdlib_module_names)
    assert not [n for n in names if importlib.util.find_spec(n)]
