"""The scripts themselves, unedited, under a real Slurm of two nodes: the short form."""

import re
import stat
import subprocess
from pathlib import Path

import pytest

from tests.slurm.conftest import ROOT, WAIT

BATCH = ("shards", "kd", "ssl")


@pytest.mark.parametrize("name", [*(f"{n}.sbatch" for n in BATCH), "pipeline.sh"])
def test_a_script_is_one_page_that_bash_can_read(name):
    """40 lines at most for what a user reads before submitting it; the pipeline of all jobs has a few more."""
    path = ROOT / "slurm" / name
    assert len(path.read_text().splitlines()) <= (40 if name.endswith(".sbatch") else 60)
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize("name", BATCH)
def test_slurm_accepts_the_script_as_it_is(lab, name):
    """`sbatch --test-only` says when it would start, and nothing is wrong with the options in its head."""
    told = lab.slurm.run("sbatch", "--test-only", f"slurm/{name}.sbatch", cwd=lab.folder)
    assert "to start at" in told
    assert "error" not in told


def test_an_array_makes_the_parts_and_one_more_job_the_data_set(lab, tmp_path):
    """Two tasks and the merge give the same files as one build, and the merge waits for both."""
    from mkd.synth.landscape import render, write_orthomosaic

    image, _ = write_orthomosaic(render("target", 96, 96, 0), tmp_path / "scenes", "one")
    words = [
        "tile",
        "--source",
        image,
        "--classes",
        ROOT / "configs/datasets/demo_target.yaml",
        "--size",
        "32",
    ]
    words += ["--shard-size", "2"]
    parts = lab.submit("shards", *words, "--out", tmp_path / "parts", options=["--array=1-2"])
    wait = ["--array=1", f"--dependency=afterok:{parts}"]
    merge = lab.submit("shards", "index", tmp_path / "parts", options=wait)
    assert lab.slurm.wait(parts, merge, seconds=WAIT) == {"COMPLETED"}, list(lab.folder.glob("shards-*.log"))
    alone = ["bash", "-c", 'PATH=$PWD/.venv/bin:$PATH exec python -m shards "$@"', "shards", *map(str, words)]
    subprocess.run([*alone, "--out", str(tmp_path / "whole")], cwd=lab.folder, check=True)
    # build.json names the command with its --part; everything that is data is the same.
    assert _tars(tmp_path / "parts") == _tars(tmp_path / "whole") != {}


def _tars(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


@pytest.mark.slow
def test_a_job_ahead_of_its_time_limit_saves_queues_again_and_ends_as_if_never_stopped(
    lab, quick, weights, tmp_path
):
    """The warning signal in the middle of a run on two nodes: one requeue, bit for bit the undisturbed weights."""
    words = [*quick["kd"], "steps=40"]
    plain, requeued = tmp_path / "plain", tmp_path / "requeued"
    told = lab.completed(lab.submit("kd", *words, options=["--nodes=2"], RUN=plain))
    assert "node n1: number 0 of 2" in told
    assert "node n2: number 1 of 2" in told
    job = lab.submit("kd", *words, options=["--nodes=2"], RUN=requeued)
    lab.until_file(job, requeued / "fisher.safetensors")  # the student's steps come next
    lab.slurm.run("scancel", "--batch", "--signal=USR1", job)  # what --signal=B:USR1 sends ahead of the limit
    told = lab.completed(job)
    assert lab.restarts(job) == 1, told
    assert re.search(r"stopped at step \d+ of 40", told), told
    assert "the job goes back to the queue" in told
    assert weights(requeued) == weights(plain)


@pytest.mark.slow
def test_teachers_and_students_share_an_allocation_and_end_together(lab, quick, sets, tmp_path):
    """One teacher a node, behind a token that only its owner reads; one is killed with -9 and comes back."""
    run = tmp_path / "ssl"
    words = [*quick["semi"], "steps=30"]
    job = lab.submit("ssl", *words, options=["--nodes=2"], RUN=run, START=sets["model"])
    lab.until_file(job, run / "metrics.jsonl", "ssl")
    token = Path(f"{run}.token")
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    told = lab.completed(job, "ssl")
    endpoints = set(re.findall(r"teacher ready endpoint=(\S+)", told))
    assert {e.rpartition(":")[0] for e in endpoints} == {"127.0.0.1", "127.0.0.2"}, told
    assert (run / "model" / "model.yaml").is_file()
    assert token.read_text() not in told
    lab.slurm.until(lambda: not lab.slurm.processes(), WAIT, "something of the job still runs")
