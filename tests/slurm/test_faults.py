"""What a cluster does to jobs: time limits, pre-emption, lost nodes, killed teachers. Heavier than the short form."""

import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from tests.slurm.conftest import ROOT, WAIT

pytestmark = pytest.mark.slow


@pytest.fixture
def counting(lab):
    """The cluster, with a run that only counts in the place of launch/kd.py."""
    (lab.folder / "launch").unlink()
    (lab.folder / "launch").mkdir()
    shutil.copy(ROOT / "tests/helpers/processes/counting_run.py", lab.folder / "launch" / "kd.py")
    yield lab
    lab.slurm.cancel_all()
    shutil.rmtree(lab.folder / "launch")
    (lab.folder / "launch").symlink_to(ROOT / "launch")


def _starts(told):
    """List the steps that the ranks of each start went on from."""
    return [int(step) for step in re.findall(r"rank 0 of 2: from step (\d+)", told)]


def test_a_real_time_limit_is_only_a_pause(counting, tmp_path):
    """Two minutes are too few: Slurm's own signal comes ahead of the limit, and the job goes on after each."""
    options = ["--nodes=2", "--time=2", "--signal=B:USR1@75"]
    job = counting.submit("kd", options=options, RUN=tmp_path / "run", STEPS=120)
    told = counting.completed(job)
    assert counting.restarts(job) >= 1
    assert "TIME LIMIT" not in told
    starts = _starts(told)
    assert starts == sorted(set(starts)), told
    assert len(starts) == 1 + counting.restarts(job)


def test_a_preempted_job_queues_again_and_goes_on(counting, tmp_path):
    """A more urgent job takes both nodes: the step gets TERM, saves, and is back when the nodes are free."""
    run = tmp_path / "run"
    job = counting.submit("kd", options=["--nodes=2"], RUN=run, STEPS=40)
    counting.until_file(job, run / "step")
    urgent = [
        "sbatch",
        "--parsable",
        "--partition=urgent",
        "--nodes=2",
        "--output=/dev/null",
        "--wrap",
        "sleep 2",
    ]
    assert counting.slurm.wait(counting.slurm.run(*urgent, cwd=counting.folder)) == {"COMPLETED"}
    told = counting.completed(job)
    assert counting.restarts(job) == 1, told
    assert _starts(told)[-1] > 0, told


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_is_started_again_on_its_node(lab, quick, weights, tmp_path, rank):
    """One rank of two nodes gets kill -9: both start again within the job, from the last checkpoint."""
    words = [*quick["kd"], "steps=40", "save_every=5"]
    plain, killed = tmp_path / "plain", tmp_path / "killed"
    job = lab.submit("kd", *words, options=["--nodes=2"], RUN=killed)
    lab.until_file(job, killed / "checkpoints" / "student" / "latest.pt")
    os.kill(_started("launch/kd.py", f"out={killed}", rank), signal.SIGKILL)
    told = lab.completed(job)
    assert lab.restarts(job) == 0
    assert "going on from step" in told
    lab.completed(lab.submit("kd", *words, options=["--nodes=2"], RUN=plain))
    assert weights(killed) == weights(plain)


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_lost_node_sends_the_job_back_to_the_queue(lab, quick, weights, tmp_path, node):
    """The daemon of a node is killed, of the script's own or of the other: the same weights after all.

    The run must outlast SlurmdTimeout, 12 s here, or it ends well before the loss is noticed.
    """
    words = [*quick["kd"], "steps=600", "save_every=20"]
    plain, lost = tmp_path / "plain", tmp_path / "lost"
    job = lab.submit("kd", *words, options=["--nodes=2"], RUN=lost)
    lab.until_file(job, lost / "checkpoints" / "student" / "latest.pt")
    lab.slurm.kill_node(node)
    lab.slurm.until(lambda: lab.restarts(job) == 1, WAIT, "the job was not put back into the queue")
    lab.slurm.start_node(node)
    told = lab.completed(job)
    assert "node failure" in told.lower()
    assert "going on from step" in told
    lab.completed(lab.submit("kd", *words, options=["--nodes=2"], RUN=plain))
    assert weights(lost) == weights(plain)


def test_killed_teachers_come_back(lab, quick, sets, tmp_path):
    """One teacher is killed with -9, then the step of all: the students wait, and the run ends well."""
    run = tmp_path / "ssl"
    words = [*quick["semi"], "steps=200"]
    job = lab.submit("ssl", *words, options=["--nodes=2"], RUN=run, START=sets["model"])
    lab.until_file(job, run / "metrics.jsonl", "ssl")
    os.kill(_teachers(run)[0], signal.SIGKILL)
    _until_ready(lab, job, 3)
    lab.slurm.run("scancel", "--signal=KILL", f"{job}.{_step(lab, job, 'teachers')}")
    _until_ready(lab, job, 5)
    lab.completed(job, "ssl")
    lab.slurm.until(lambda: not lab.slurm.processes(), WAIT, "something of the job still runs")


def test_students_without_teachers_end_with_a_sentence(lab, quick, sets, tmp_path):
    """No teacher for longer than teacher.patience: the job fails, and the log says why and what to do."""
    run = tmp_path / "ssl"
    words = [*quick["semi"], "steps=2000", "teacher.patience=2"]
    job = lab.submit("ssl", *words, options=["--nodes=1"], RUN=run, START=sets["model"], RESTARTS=0)
    lab.until_file(job, run / "metrics.jsonl", "ssl")
    lab.slurm.run("scancel", "--signal=KILL", f"{job}.{_step(lab, job, 'teachers')}")
    assert lab.slurm.wait(job, seconds=WAIT) == {"FAILED"}
    told = lab.log(job, "ssl")
    assert re.search(r"teacher\.patience|no teacher", told), told
    assert f"no {run}/model" in told or f"{run}: no model" in told, told


def test_without_teachers_of_their_own_students_label_for_themselves(lab, quick, sets, tmp_path):
    """TEACHERS_PER_NODE=0: no service, no token, two ranks on one node."""
    run = tmp_path / "ssl"
    variables = {"RUN": run, "START": sets["model"], "TEACHERS_PER_NODE": 0, "NPROC": 2}
    told = lab.completed(lab.submit("ssl", *quick["semi"], "steps=4", **variables), "ssl")
    assert "teacher ready" not in told
    assert not Path(f"{run}.token").exists()


def test_two_teachers_a_node(lab, quick, sets, tmp_path):
    """TEACHERS_PER_NODE=2 on two nodes: four teachers, each with a port of its own; a run folder typed with a slash."""
    variables = {"RUN": f"{tmp_path}/ssl/", "START": sets["model"], "TEACHERS_PER_NODE": 2}
    told = lab.completed(
        lab.submit("ssl", *quick["semi"], "steps=20", options=["--nodes=2"], **variables), "ssl"
    )
    ready = set(re.findall(r"teacher ready endpoint=(\S+)", told))
    assert len(ready) == 4, told
    assert (tmp_path / "ssl.token").is_file()


def test_single_parts_are_made_again(lab, tmp_path):
    """PARTS says of how many parts an array makes some: the data set is whole afterwards."""
    from mkd.synth.landscape import render, write_orthomosaic

    image, _ = write_orthomosaic(render("target", 96, 96, 0), tmp_path / "scenes", "one")
    classes = ROOT / "configs/datasets/demo_target.yaml"
    words = ["tile", "--source", image, "--classes", classes, "--size", "32", "--shard-size", "2"]
    out = ["--out", tmp_path / "set"]
    for array in ("1,3", "2"):
        job = lab.submit("shards", *words, *out, options=[f"--array={array}"], PARTS=3)
        assert lab.slurm.wait(job, seconds=WAIT) == {"COMPLETED"}
    merge = lab.submit("shards", "index", tmp_path / "set", options=["--array=1"])
    assert lab.slurm.wait(merge, seconds=WAIT) == {"COMPLETED"}
    assert (tmp_path / "set" / "index.json").is_file()


def _step(lab, job, name):
    steps = lab.slurm.run("squeue", "--steps", "--noheader", f"--jobs={job}", "--format=%i %j").splitlines()
    return next(line.split()[0].rpartition(".")[2] for line in steps if line.endswith(name))


def _until_ready(lab, job, count):
    def ready():
        return lab.log(job, "ssl").count("teacher ready") >= count

    lab.slurm.until(ready, WAIT, f"teachers were not ready {count} times\n{lab.log(job, 'ssl')}")


def _teachers(run):
    """List the processes of teachers that serve a run."""
    return sorted(pid for pid, _ in _processes("launch/teacher.py", f"run={run}"))


def _started(script, word, rank):
    """Return the process of a rank."""
    (found,) = [pid for pid, env in _processes(script, word) if f"RANK={rank}" in env]
    return found


def _processes(script, word):
    """List processes with both words in their command line, and their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words, env = (
                (path / n).read_bytes().decode(errors="replace").split("\0") for n in ("cmdline", "environ")
            )
        except OSError:
            continue
        if script in words and word in words:
            found.append((int(path.name), env))
    return found
