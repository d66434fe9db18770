"""Wishes to stop: heard from signals and a file, agreed over ranks, and a hang ends by itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mkd.distributed.world import World
from mkd.train.run import stop_request as stopping
from mkd.train.run.stop_request import INTERRUPTED, LATER, NOW, Stopped, StopRequest
from tests.helpers.processes.ranks import run_ranks
from tests.helpers.training.runs import CPU, ROOT

HERE = "tests.mkd.train.run.test_stop_request"


@pytest.mark.parametrize(
    ("number", "wish"), [(signal.SIGUSR1, LATER), (signal.SIGTERM, NOW), (signal.SIGINT, INTERRUPTED)]
)
def test_a_signal_is_a_wish(tmp_path, number, wish):
    """Nothing is wished until the signal; from then on it is, and afterwards the signal is the old one's again."""
    before = signal.getsignal(number)
    with StopRequest(CPU, tmp_path / "stop") as stop:
        assert stop.level_of_all_ranks() == 0
        os.kill(os.getpid(), number)
        assert [stop.level_of_all_ranks(), stop.level_of_all_ranks()] == [wish, wish]
    assert signal.getsignal(number) == before


def test_sigterm_is_the_stronger_wish(tmp_path):
    """Whichever comes first."""
    for numbers in ((signal.SIGTERM, signal.SIGUSR1), (signal.SIGUSR1, signal.SIGTERM)):
        with StopRequest(CPU, tmp_path / "stop") as stop:
            for number in numbers:
                os.kill(os.getpid(), number)
            assert stop.level_of_all_ranks() == NOW


def test_a_second_interrupt_ends_at_once(tmp_path, monkeypatch):
    """Ctrl-C is passed on by torchrun within a moment, which is no second one; a later one interrupts."""
    with StopRequest(CPU, tmp_path / "stop") as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.level_of_all_ranks() == INTERRUPTED
        monkeypatch.setattr(stopping, "ECHO_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert Stopped(INTERRUPTED).code == 130


def test_the_file_is_a_wish(tmp_path, monkeypatch):
    """RUN/stop is seen, but looked for at most once a second."""
    with StopRequest(CPU, tmp_path / "stop") as stop:
        assert stop.level_of_all_ranks() == 0
        (tmp_path / "stop").touch()
        assert stop.level_of_all_ranks() == 0
        monkeypatch.setattr(stopping, "POLL_SECONDS", 0.0)
        assert stop.level_of_all_ranks() == LATER
        assert (tmp_path / "stop").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_waits_hears_wishes_itself(tmp_path, monkeypatch, rank):
    """Within a step each rank sees the file and its own signals, because no other can tell it."""
    monkeypatch.setattr(stopping, "POLL_SECONDS", 0.0)
    with StopRequest(World(rank, 2, CPU.device), tmp_path / "stop") as stop:
        assert not stop.is_set_here()
        (tmp_path / "stop").touch()
        assert stop.is_set_here()
    (tmp_path / "stop").unlink()
    with StopRequest(World(rank, 2, CPU.device), tmp_path / "stop") as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set_here()


def test_a_wish_is_agreed_by_asking_twice(tmp_path, monkeypatch):
    """Of several ranks the second answer is to the first question; that is how a step that failed learns of a wish."""
    asked = []

    def all_reduce_max(self, flag):
        asked.append(flag)
        return lambda: flag

    monkeypatch.setattr(World, "all_reduce_max", all_reduce_max)
    with StopRequest(World(0, 2, CPU.device), tmp_path / "stop") as stop:
        assert stop.level_of_all_ranks() == 0
        os.kill(os.getpid(), signal.SIGUSR1)
        assert (stop.level_of_all_ranks() or stop.level_of_all_ranks()) == LATER
    assert asked == [0, LATER, LATER]


def test_an_obeyed_file_is_gone_at_the_next_start(tmp_path):
    """One that was obeyed, or is older than the process, is removed; a fresh one counts."""
    file = tmp_path / "stop"
    file.touch()
    with StopRequest(CPU, file) as stop:
        assert stop.level_of_all_ranks() == LATER
        stop.acknowledge()
        assert file.exists()
    with StopRequest(CPU, file) as stop:
        assert stop.level_of_all_ranks() == 0
        assert not file.exists()
        stop.acknowledge()
    assert not file.exists()


def test_a_restart_keeps_the_file(tmp_path, monkeypatch):
    """When torchrun starts the ranks again after a crash, a wish from before the crash still counts."""
    file = tmp_path / "stop"
    file.touch()
    os.utime(file, (0, 0))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with StopRequest(CPU, file) as stop:
        assert stop.level_of_all_ranks() == LATER


@pytest.mark.parametrize(
    ("wish", "torchrun", "status"),
    [(NOW, False, 143), (NOW, True, 143), (LATER, False, 75), (LATER, True, 0)],
)
def test_exit_status(monkeypatch, wish, torchrun, status):
    """143 after SIGTERM; else 75, or 0 where torchrun would take it for a crash."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert Stopped(wish).code == status


def hanging(folder, reached):
    """Be a run that hangs in one call; with `reached` a step has ended since SIGTERM."""
    stopping.GRACE_SECONDS = 0.3
    with StopRequest(CPU, folder) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        if reached:
            stop.level_of_all_ranks()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        time.sleep(1.5)
    print("went on")


@pytest.mark.parametrize("reached", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_rank_that_hangs_after_sigterm_ends_by_itself(tmp_path, reached):
    """No step ends within the patience: one line and status 143; a rank that saves its checkpoint is left alone."""
    code = f"from {HERE} import hanging; from pathlib import Path; hanging(Path({str(tmp_path)!r}) / 's', {reached})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    if reached:
        assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr
    else:
        assert (done.returncode, done.stdout) == (143, "")
        assert "no step has ended" in done.stderr
        assert "goes on from the last one" in done.stderr


def wishing(world, folder):
    """Ask five times; rank 1 is told to stop before its second time, and rank 0 finds the file never."""
    found = []
    with StopRequest(world, Path(folder) / "stop") as stop:
        for n in range(5):
            if (n, world.rank) == (1, 1):
                os.kill(os.getpid(), signal.SIGUSR1)
            found.append(stop.level_of_all_ranks())
    return found


@pytest.mark.slow
def test_ranks_agree(tmp_path):
    """One rank's signal is every rank's wish, after the same step on all."""
    assert run_ranks(f"{HERE}:wishing", 2, tmp_path, str(tmp_path)) == [[0, 0, LATER, LATER, LATER]] * 2
