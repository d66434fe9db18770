"""Jobs that are killed or interrupted, and several of them in one folder."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from mkd.storage.folder import Folder as Place
from shards.output.merge import make_index
from tests.helpers.processes.jobs import command, run, wait_until, workers_of


def test_a_killed_worker_is_one_sentence(folder, tmp_path):
    """When the system kills a worker, the job ends, keeps its shards, and says what to do."""
    for number in range(5, 2000):  # seconds of work: the job must not end before it is hit
        folder.image(f"images/n{number}.jpg", seed=number)
    folder.describe(layout={"images": "images/*.jpg", "masks": None})
    job = subprocess.Popen(
        command(folder, tmp_path / "out", "--workers", "2"), stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: (tmp_path / "out/toy-000002.tar").exists())
    os.kill(workers_of(job.pid)[0], signal.SIGKILL)
    error = job.communicate(timeout=60)[1]
    assert (job.returncode, error.count("\n")) == (2, 1)
    assert "a worker process was killed" in error
    wait_until(lambda: not workers_of(job.pid))


def test_an_interrupted_job_keeps_what_is_finished(folder, tmp_path):
    """Ctrl-C ends job and workers with one sentence and exit code 130."""
    for number in range(5, 2000):  # seconds of work: the job must not end before it is hit
        folder.image(f"images/n{number}.jpg", seed=number)
    folder.describe(layout={"images": "images/*.jpg", "masks": None})
    job = subprocess.Popen(
        command(folder, tmp_path / "out", "--workers", "2"),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: (tmp_path / "out/toy-000002.tar").exists())
    os.killpg(job.pid, signal.SIGINT)
    error = job.communicate(timeout=60)[1]
    words = "mkd-shards: interrupted; finished shards are kept, the same command goes on from there\n"
    assert (job.returncode, error) == (130, words)
    assert (tmp_path / "out/toy-000002.tar").exists()


def test_workers_end_with_a_killed_job(folder, tmp_path):
    """A job killed alone takes its workers along, so that nobody writes behind the next job's back."""
    for number in range(5, 2000):  # seconds of work: the job must not end before it is hit
        folder.image(f"images/n{number}.jpg", seed=number)
    folder.describe(layout={"images": "images/*.jpg", "masks": None})
    job = subprocess.Popen(command(folder, tmp_path / "out", "--workers", "2"))
    wait_until(lambda: (tmp_path / "out/toy-000002.tar").exists())
    children = workers_of(job.pid)
    assert children
    job.kill()
    job.wait()
    wait_until(lambda: not any(Path(f"/proc/{child}/cmdline").exists() for child in children))
    assert not (tmp_path / "out/index.json").exists()


NEVER_ENDS = """
import sys, time
from shards.output import builder
builder.map_in_processes = lambda *given, **more: time.sleep(3600)
from shards.__main__ import main
sys.exit(main())
"""


@pytest.fixture
def slow(folder):
    """Give a function that starts a job which holds its lock and never ends: its shards are never cut."""
    jobs = []

    def start(out, *more):
        python, _, _, *words = command(folder, out, "--workers", "1", *more)
        jobs.append(subprocess.Popen([python, "-c", NEVER_ENDS, *words]))
        place = Place(out)
        wait_until(
            lambda: any(name.startswith(".lock") for name in place.sizes()) and place.exists("build.json")
        )
        return jobs[-1]

    yield start
    for job in jobs:
        job.kill()
        job.wait()


def test_a_second_job_in_the_same_folder_refuses(folder, tmp_path, slow):
    """It names the first; parts, merge and split refuse as well; when the first is dead, the folder is free."""
    first = slow(tmp_path / "out")
    second = subprocess.run(command(folder, tmp_path / "out"), capture_output=True, text=True, timeout=120)
    assert second.returncode == 2
    assert f"another job builds in {tmp_path / 'out'} (process {first.pid} on " in second.stderr
    with pytest.raises(ValueError, match="another job builds"):
        run(folder, tmp_path / "out", part="1/2")
    with pytest.raises(ValueError, match="another job builds"):
        make_index(tmp_path / "out")
    first.kill()
    first.wait()
    assert run(folder, tmp_path / "out")["samples"] == 5
    assert not list((tmp_path / "out").glob(".*"))


def test_parts_run_beside_each_other_but_not_beside_themselves(folder, tmp_path, slow):
    """While part 1/2 is at work, 2/2 may run; 1/2 again, 1/3, the whole and another input may not."""
    out = tmp_path / "out"
    slow(out, "--part", "1/2")
    run(folder, out, part="2/2")
    for options in ({"part": "1/2"}, {"part": "1/3"}, {}):
        with pytest.raises(ValueError, match="another job builds"):
            run(folder, out, **options)
    folder.image("images/t4.jpg", seed=9)
    with pytest.raises(ValueError, match="other parts build 'toy' of other inputs or options"):
        run(folder, out, part="2/2")


def test_a_second_job_on_s3_refuses(folder, s3, slow):
    """The lock is an object made with a condition; that of a dead job is taken over."""
    first = slow(s3)
    with pytest.raises(
        ValueError, match=rf"another job builds in {s3} \(process {first.pid} on .* it counts for"
    ):
        run(folder, s3)
    first.kill()
    first.wait()
    assert run(folder, s3)["samples"] == 5
    assert not [name for name in Place(s3).sizes() if name.startswith(".")]
