"""How commands end: as ever for one process, and among several ranks at once, with the rank in the line."""

import os
import signal
import subprocess
import sys

import pytest

from mkd.cli import exit
from mkd.config.load import main
from mkd.config.schema import DemoRun


class Left(BaseException):
    """What a test raises where the process would end."""


@pytest.fixture
def rank(monkeypatch):
    """Be a rank of two on a node; give its number."""

    def be(number):
        for name, value in {"RANK": number, "WORLD_SIZE": "2", "SLURMD_NODENAME": "n7"}.items():
            monkeypatch.setenv(name, str(value))

        def leave(status):
            raise Left(status)

        monkeypatch.setattr(os, "_exit", leave)

    return be


def ended(work):
    """Run a command that does `work`; return its status."""
    with pytest.raises(Left) as left:
        main(DemoRun, "demo", work, [])
    return left.value.args[0]


def raising(error):
    def work(config):
        raise error

    return work


def test_a_mistake_names_its_rank(rank, capsys):
    """One line with rank and node, status 2, and the process leaves at once."""
    rank(1)
    assert ended(raising(ValueError("data.crop=3; at least 32 is allowed"))) == 2
    assert capsys.readouterr().err == "demo: rank 1 (node n7): data.crop=3; at least 32 is allowed\n"


@pytest.mark.parametrize(
    ("restarts", "error", "ends"),
    [("3", ValueError("x"), True), ("0", ValueError("x"), False), ("3", KeyError(), False)],
)
def test_a_mistake_is_not_tried_again(rank, monkeypatch, restarts, error, ends):
    """torchrun would start the ranks again, to the same mistake; what may pass is left to it."""
    rank(0)
    for name, value in {"RUN_ID": "x", "MAX_RESTARTS": restarts, "RESTART_COUNT": "0"}.items():
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    told = []
    monkeypatch.setattr(os, "kill", lambda *what: told.append(what))
    ended(raising(error))
    assert told == ([(os.getppid(), signal.SIGTERM)] if ends else [])


def test_a_mistake_of_the_program_has_its_traceback(rank, capsys):
    """Among ranks too, and its last line names the rank."""
    rank(0)
    assert ended(raising(TypeError("what\nis this"))) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("demo: rank 0 (node n7): TypeError: what is this\n")


@pytest.mark.parametrize(
    "text", ["[pair.cc:547] Connection closed by peer [10.0.0.2]:123", "NCCL error: ncclRemoteError: exiting"]
)
def test_losing_another_rank_is_one_line(rank, capsys, text):
    """What a rank sees when another one has failed is not the error to look at, and says so."""
    rank(0)
    assert ended(raising(RuntimeError(text))) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "lost another rank, whose own message says why" in err
    assert text[:20] in err


@pytest.mark.parametrize("status", [0, 75, 143])
def test_a_wish_keeps_its_status(rank, status):
    """A run that stopped as asked ends with the status of the wish."""
    rank(1)
    assert ended(raising(SystemExit(status))) == status


def test_one_rank_speaks(rank, capsys):
    """What a command returns is printed by rank 0 alone, and all leave well."""
    for number, said in ((0, "model: x\n"), (1, "")):
        rank(number)
        assert ended(lambda config: "model: x") == 0
        assert capsys.readouterr().out == said


def test_one_process_is_as_ever(capsys, monkeypatch):
    """Without other ranks: text printed, one line and status 2 for a mistake, a crash raised, no rank named."""
    monkeypatch.setattr(exit, "leave", None)
    assert main(DemoRun, "demo", lambda config: "model: x", []) is None
    with pytest.raises(SystemExit) as end:
        main(DemoRun, "demo", raising(ValueError("no")), [])
    assert end.value.code == 2
    assert capsys.readouterr() == ("model: x\n", "demo: no\n")
    with pytest.raises(TypeError):
        main(DemoRun, "demo", raising(TypeError()), [])


CHILD = "from mkd.cli.exit import fail\nfail('kd', 'data.val=x: no such folder', 2)"
# What torchrun does: it starts the process with such variables, prints a report of its own, and ends with 1.
PARENT = f"""
import os, subprocess, sys
there = {{**os.environ, "TORCHELASTIC_RUN_ID": "x"}}
status = subprocess.run([sys.executable, "-c", {CHILD!r}], env=there).returncode
print("its own report", status, file=sys.stderr)
sys.exit(1)
"""


def test_the_sentence_comes_last_under_torchrun():
    """Below the report of the process that started it, whose status stays."""
    done = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, timeout=60)
    sentence = "data.val=x: no such folder"
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"kd: {sentence}", "its own report 2", f"kd ended: {sentence}"]


def test_ctrl_c_is_one_line(rank, capsys, monkeypatch):
    """Rank 0 says what the same command does, the others nothing, and torchrun is ended without its traceback."""
    told = []
    monkeypatch.setattr(os, "kill", lambda *what: told.append(what))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    for number in (1, 0):
        rank(number)
        monkeypatch.setenv("LOCAL_RANK", str(number))
        assert ended(raising(KeyboardInterrupt())) == 130
    assert (
        capsys.readouterr().err
        == "demo: stopped; run the same command again to go on: ended runs are not repeated\n"
    )
    assert told == [(os.getppid(), signal.SIGKILL)]
