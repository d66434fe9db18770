"""One process writes a run folder: a second start is refused, a dead owner is no obstacle, a lost lock ends a run."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from mkd.train.run import run_lock as module
from mkd.train.run.checkpoint import Checkpoints
from mkd.train.run.run_lock import LockLost, RunLock
from tests.helpers.training.loops import run, step_and_feed, write_sets
from tests.helpers.training.runs import fit_in, phase_of


@pytest.fixture
def path(tmp_path):
    return tmp_path / "owner.json"


@pytest.fixture
def patience(monkeypatch):
    """Do not wait long for a process to die."""
    monkeypatch.setattr(module, "EXIT_SECONDS", 0.2)


def claimed(path, **other):
    """Write the claim of another process: of a child of ours that lives, but for what is given; return the child."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    mine = RunLock(path)
    path.write_text(
        json.dumps({**mine.identity, "pid": child.pid, "started": module._start_ticks(child.pid), **other})
    )
    return child


@pytest.fixture
def living(path):
    child = claimed(path)
    yield child
    child.kill()
    child.wait()


def test_a_living_owner_is_not_disturbed(path, living, patience):
    """One sentence with its number, host and start, and what to do; the file stays."""
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=f"process {living.pid} on .* since .*which lives; end that one"
    ) as e:
        RunLock(path).acquire()
    assert "\n" not in str(e.value)
    assert path.read_bytes() == before


def test_a_killed_owner_is_no_obstacle(path, living):
    """Right after kill -9, and before anybody has asked for its status, the next start takes the folder."""
    living.send_signal(signal.SIGKILL)
    RunLock(path).acquire()
    assert json.loads(path.read_text())["pid"] == os.getpid()


def test_an_owner_that_is_dying_is_waited_for(path, living):
    """A process that needs a moment to end is no reason to refuse."""
    subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {living.pid}"])
    began = time.monotonic()
    RunLock(path).acquire()
    assert time.monotonic() - began < module.EXIT_SECONDS


def test_another_process_of_the_same_number(path):
    """Numbers come again: a process that was started at another time is not the owner."""
    child = claimed(path, started=1)
    RunLock(path).acquire()
    child.kill()
    child.wait()


def test_another_host_is_taken_over_from_with_a_warning(path, living, caplog):
    """A dead node cannot tell that it is dead; the line names process, host and Slurm job."""
    claim = json.loads(path.read_text()) | {"host": "node7", "job": "812", "restart": "1"}
    path.write_text(json.dumps(claim))
    RunLock(path).acquire()
    assert len(caplog.messages) == 1
    assert f"taken over from process {living.pid} on node7" in caplog.messages[0]
    assert "Slurm job 812, requeued 1 times; if that still runs" in caplog.messages[0]
    assert json.loads(path.read_text())["pid"] == os.getpid()


def test_the_slurm_job_is_in_the_file(path, monkeypatch):
    """Job and number of requeues, if any."""
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    RunLock(path).acquire()
    assert {k: json.loads(path.read_text())[k] for k in ("job", "restart")} == {"job": "77", "restart": "2"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 3}'])
def test_a_broken_file_is_no_owner(path, text):
    """What no version of this program has written says nothing."""
    path.write_text(text)
    RunLock(path).acquire()


def test_leaving(path, living):
    """The owner's file goes when it leaves; another one's stays."""
    mine = RunLock(path)
    mine.release()
    assert path.exists()
    living.kill()
    mine.acquire()
    assert mine.lost() is None
    mine.release()
    assert not path.exists()
    assert "taken over by an unknown process" in mine.lost()
    mine.release()


@pytest.mark.parametrize("torchrun", [False, True])
def test_a_displaced_run_writes_nothing_more(tmp_path, monkeypatch, capsys, torchrun):
    """At the next validation or checkpoint it says who took the folder, and ends; under torchrun for good, with 0."""
    if torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    data, taken = write_sets(tmp_path), []
    step, feed = step_and_feed("supervised", 0, data["labelled"], None)
    updated = step.after_update
    monkeypatch.setattr(step, "after_update", lambda: updated() or taken.append(1))

    def who():
        return "run was taken over by process 7" if len(taken) >= 5 else None

    with pytest.raises(LockLost) as end:
        fit_in(tmp_path / "run", step, feed, phase_of(), lock_lost=who)
    assert end.value.code == (0 if torchrun else 2)
    assert capsys.readouterr().out.splitlines()[-1] == "run was taken over by process 7"
    assert len(taken) == 6
    assert Checkpoints(tmp_path / "run" / "checkpoints" / "student").load()["step"] == 3
    run(tmp_path / "run", data, "supervised")  # whoever has it goes on


def test_a_displaced_run_does_not_go_back(tmp_path):
    """A rollback is a write too."""
    taken = []
    checkpoints = Checkpoints(tmp_path, lock_lost=lambda: "taken" if taken else None)
    checkpoints.save({"step": 3}, good=True)
    taken.append(1)
    with pytest.raises(ValueError, match="taken"):
        checkpoints.go_back(lambda state: None)
