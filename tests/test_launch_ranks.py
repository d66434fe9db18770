"""The commands on several ranks, with the real torchrun: as one rank, stopped, killed, restarted, failing."""

import json
import os
import shutil
import signal

import pytest

from tests.helpers.shards import overwrite, write_dataset
from tests.helpers.training.comparison import near, same, saved
from tests.helpers.training.runs import (
    QUICK,
    coloured,
    digests,
    finish,
    kill_once,
    launch,
    once,
    rank_processes,
    rows,
    start,
    torchrun,
)

OFTEN = ("data.batch=4", "data.crop=64", "steps=6", "save_every=2", "val_every=3", "log_every=1")
PHASES = {"supervised": "student", "kd": "student", "semi": "semi"}
LONG = 500  # seconds in which a job ends that does not wait for a rank that is gone: those waits take 600

pytestmark = pytest.mark.usefixtures("one_thread")  # bits are compared


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """What to type for each stage, without out=, and runs of one rank in this process.

    From trained weights and with small steps: from random ones each layer multiplies what ranks round otherwise.
    """
    root = tmp_path_factory.mktemp("one")
    counts = {"labelled": 6, "unlabelled": 6, "val": 3}
    sets = {
        name: write_dataset(root / name, coloured(n, (72, 72), seed=seed), labelled=name != "unlabelled")
        for seed, (name, n) in enumerate(counts.items())
    }
    base = [f"data.labelled={sets['labelled']}", f"data.val={sets['val']}", *QUICK, *OFTEN]
    # AdamW would turn what ranks round otherwise into whole steps where a gradient is next to nothing.
    base += ["optim.name=sgd", "optim.lr=2e-4", "optim.weight_decay=1e-3"]
    typed = {"supervised": [*base, "model=lite0", "student_init=imagenet"]}
    assert launch("supervised", *typed["supervised"], f"out={root}/supervised") == 0
    source = [f"kd.source={root}/supervised/model", f"kd.source_data={sets['labelled']}"]
    teacher = ["kd.teacher_epochs=2", "kd.fisher_tiles=3", "kd.ewc_weight=1e-6", "kd.student_init=imagenet"]
    typed["kd"] = [*base, "model=lite0", *source, *teacher]
    begin = [f"semi.start={root}/supervised/model", f"data.unlabelled={sets['unlabelled']}"]
    typed["semi"] = [*base, *begin, "semi.confidence=0.34", "semi.drop_start=0.5", "semi.result=teacher"]
    for stage in ("kd", "semi"):
        assert launch(stage, *typed[stage], f"out={root}/{stage}") == 0
    return root, typed


@pytest.fixture(scope="module")
def together(commands, tmp_path_factory):
    """The same on two ranks, never stopped; each stage is run when it is first asked for."""
    root, ended = tmp_path_factory.mktemp("two"), {}

    def run(stage):
        if stage not in ended:
            ended[stage] = finish(torchrun(stage, *commands[1][stage], f"out={root}/{stage}"), LONG)
        assert ended[stage][0] == 0, ended[stage][1]
        return root / stage, ended[stage][1]

    return run


@pytest.mark.parametrize(
    "stage", ["semi", *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("supervised", "kd"))]
)
def test_two_ranks_are_one(commands, together, stage):
    """Each stage on two ranks ends with the weights of one rank; one of them writes and speaks, and tells the start."""
    one = commands[0] / stage
    run, said = together(stage)
    near(run, one, PHASES[stage])
    assert {n.split("/")[0] for n in digests(run)} == {n.split("/")[0] for n in digests(one)}
    assert [(r["phase"], r["step"]) for r in rows(run)] == [(r["phase"], r["step"]) for r in rows(one)]
    lines = said.splitlines()
    assert lines[-1] == f"model: {run}/model"
    for part in (
        "engine ddp: 2 ranks",
        "layers synchronised over the ranks",
        "4 = 2 ranks x 1 forward passes x 2",
    ):
        assert said.count(part) == (2 if stage == "kd" else 1), part
    (told,) = [line for line in lines if line.startswith("start-up to first step: ")]
    assert [word in told for word in ("imports", "ranks", "model", "data", "first step")] == [True] * 5
    assert any(line.startswith("node ") and line.endswith(": ranks 0 to 1 of 2") for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["kd", "semi"])
def test_stopped_by_sigterm_and_started_again(commands, together, tmp_path, stage):
    """SIGTERM in mid-run: a checkpoint, one line, not 0; the same command ends with the bits of a run never stopped."""
    out, phase = tmp_path / stage, PHASES[stage]
    typed = [*commands[1][stage], f"out={out}"]
    job = torchrun(stage, *typed)
    once(job, (out / "checkpoints" / phase / "latest.pt").is_file)
    job.send_signal(signal.SIGTERM)
    status, said = finish(job, LONG)
    assert status != 0
    step = saved(out, phase)["step"]
    busy = "no step has ended" in said  # on a machine with so much else to do that a step takes 15 s
    assert busy or f"stopped at step {step} of 6; the same command goes on" in said
    assert finish(torchrun(stage, *typed), LONG)[0] == 0
    same(out, together(stage)[0], phase)


@pytest.mark.slow
def test_the_stop_file(commands, together, tmp_path):
    """RUN/stop ends the job well, with a checkpoint; the next start removes it and goes on."""
    out = tmp_path / "run"
    typed = [*commands[1]["supervised"], f"out={out}", "steps=400", "save_every=400", "val_every=400"]
    job = torchrun("supervised", *typed)
    once(job, (out / "metrics.jsonl").is_file)
    (out / "stop").touch()
    status, said = finish(job, LONG)
    assert status == 0, said
    assert "of 400; the same command goes on" in said
    assert "model: " not in said.splitlines()[-1] or not (out / "model").exists()
    step = saved(out, "student")["step"]
    alone = start("supervised", *typed)
    once(alone, lambda: rows(out)[-1]["step"] > step)
    assert not (out / "stop").exists()
    (out / "stop").touch()
    status, said = finish(alone, LONG)
    assert status == 75, said
    assert f"going on from step {step} of 400" in said


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["kd", "semi"])
def test_fewer_ranks_go_on(commands, tmp_path, stage):
    """Two ranks are killed, and one goes on: the weights of one rank to 1e-5."""
    out, phase = tmp_path / stage, PHASES[stage]
    typed = [*commands[1][stage], f"out={out}"]
    kill_once(torchrun(stage, *typed), (out / "checkpoints" / phase / "latest.pt").is_file)
    assert 0 < saved(out, phase)["step"] < 6
    assert launch(stage, *typed) == 0
    near(out, commands[0] / stage, phase)


@pytest.mark.slow
def test_another_engine_goes_on(commands, tmp_path):
    """Two ranks under zero1 are killed, and two go on under ddp: weights and average of a run never stopped."""
    out = tmp_path / "semi"
    typed = [*commands[1]["semi"], f"out={out}"]
    kill_once(torchrun("semi", *typed, "engine=zero1"), (out / "checkpoints" / "semi" / "latest.pt").is_file)
    assert 0 < saved(out, "semi")["step"] < 6
    status, said = finish(torchrun("semi", *typed, "engine=ddp"), LONG)
    assert status == 0, said
    assert "engine ddp: 2 ranks" in said
    near(out, commands[0] / "semi", "semi")


@pytest.mark.slow
def test_the_same_command_twice(commands, tmp_path):
    """The second start is refused in one sentence while the first lives, which ends well; the folder is then free."""
    out = tmp_path / "run"
    typed = [*commands[1]["supervised"], f"out={out}", "steps=400", "save_every=100", "val_every=400"]
    first = start("supervised", *typed)
    once(first, (out / "metrics.jsonl").is_file)
    assert (out / "owner.json").is_file()
    second = torchrun("supervised", *typed)
    status, said = finish(second, LONG)
    assert status != 0
    assert f"out={out} is being written by process {first.pid} on " in said
    (out / "stop").touch()
    status, said = finish(first, LONG)
    assert status == 75, said
    assert not (out / "owner.json").exists()


@pytest.mark.slow
def test_a_run_that_is_displaced(commands, tmp_path):
    """Another host takes the folder: the run ends before its next checkpoint, in one line, and torchrun ends well."""
    out = tmp_path / "run"
    typed = [*commands[1]["supervised"], f"out={out}", "steps=400", "save_every=100", "val_every=400"]
    job = torchrun("supervised", *typed, options=["--max-restarts=2"])
    once(job, (out / "checkpoints" / "student" / "latest.pt").is_file)
    owner = json.loads((out / "owner.json").read_text())
    (out / "owner.json").write_text(json.dumps({**owner, "host": "node9", "pid": 5}))
    before = saved(out, "student")["step"]
    status, said = finish(job, LONG)
    assert status == 0, said
    assert said.count(f"{out} was taken over by process 5 on node9 since") == 1
    assert saved(out, "student")["step"] in (before, before + 100)  # one that was on its way
    assert json.loads((out / "owner.json").read_text())["host"] == "node9"


@pytest.mark.slow
def test_a_killed_worker_is_started_again(commands, together, tmp_path):
    """torchrun --max-restarts: kill -9 one rank, and the job goes on from the last checkpoint by itself."""
    out = tmp_path / "run"
    job = torchrun("semi", *commands[1]["semi"], f"out={out}", options=["--max-restarts=1"])
    once(job, (out / "checkpoints" / "semi" / "latest.pt").is_file)
    os.kill(rank_processes(job)[1], signal.SIGKILL)
    status, said = finish(job, LONG)
    assert status == 0, said
    assert "semi: going on from step" in said
    same(out, together("semi")[0], "semi")


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(commands, tmp_path):
    """kill -9 between the beginning and the end of a write: the checkpoint before stays, and the end is the same."""
    out = tmp_path / "run"
    folder = out / "checkpoints" / "student"
    aside = folder / ".tmp-latest.pt"
    typed = [*commands[1]["supervised"], f"out={out}"]
    for _ in range(10):
        job = start("supervised", *typed)
        kill_once(job, lambda: (folder / "latest.pt").is_file() and aside.is_file())
        if aside.is_file():
            break
    assert aside.is_file()
    assert saved(out, "student")["step"] in (2, 4)
    assert launch("supervised", *typed) == 0
    same(out, commands[0] / "supervised", "student")


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_job(commands, tmp_path):
    """A tile that only one rank reads is damaged: that rank and its error are named, and the job ends at once."""
    source = commands[0] / "labelled"
    shutil.copytree(source, tmp_path / "bad")
    overwrite(tmp_path / "bad", 520, bytes(380))  # inside the first image
    typed = [*commands[1]["supervised"], f"data.labelled={tmp_path}/bad", f"out={tmp_path}/run"]
    status, said = finish(torchrun("supervised", *typed), LONG)
    assert status != 0
    (line,) = [line for line in said.splitlines() if "has changed" in line and "supervised: " in line]
    assert line.startswith("supervised: rank ")
    assert "(node " in line


@pytest.mark.slow
def test_a_mistake_of_all_ranks(commands, together, tmp_path):
    """Another config, or a batch that the ranks cannot share: one sentence, not 0, and nothing is changed."""
    typed = [*commands[1]["semi"], f"out={together('semi')[0]}", "seed=3"]
    before = digests(together("semi")[0])
    status, said = finish(torchrun("semi", *typed), LONG)
    assert status != 0
    assert "there seed: 0; now seed: 3" in said
    assert digests(together("semi")[0]) == before
    typed = [*commands[1]["semi"], f"out={tmp_path}/run", "data.batch=3"]
    status, said = finish(torchrun("semi", *typed), LONG)
    assert status != 0
    assert (
        "data.batch=3 is not 2 ranks x data.micro=null x a whole number of forward passes; give data.batch=2 or 4"
        in said
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_evaluation_on_two_ranks(commands, tmp_path):
    """Three tiles on two ranks: the same counts, written and printed once."""
    model, data = commands[0] / "kd" / "model", commands[0] / "val"
    typed = [f"model={model}", f"data={data}", "device=cpu", "batch=1"]
    assert launch("evaluate", *typed, f"out={tmp_path}/one.json") == 0
    status, said = finish(torchrun("evaluate", *typed, f"out={tmp_path}/two.json"), LONG)
    assert status == 0, said
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one["confusion"] == two["confusion"]
    assert said.count("mIoU") == 1
