"""The same task over many items: same results in one process and in several, errors as they are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shards.process_pool import map_in_processes

# Not from a helper: each worker process imports this file, and helpers import torch.
ROOT = Path(__file__).parents[2]


def square(number):
    """Give a number's square and the process."""
    if number == 7:
        raise ValueError("seven is too many")
    return number * number, os.getpid()


def die(number):
    """End the process at once."""
    os._exit(number)


def test_one_process_keeps_the_order():
    """With one worker it happens here, one after the other, when asked for."""
    results = map_in_processes(square, range(9), 1)
    assert [next(results) for _ in range(7)] == [(n * n, os.getpid()) for n in range(7)]
    with pytest.raises(ValueError, match="seven is too many"):
        next(results)


def test_several_processes_give_all_results_and_errors():
    """Many items through few processes, each once; an error comes as it is."""
    results = list(map_in_processes(square, range(8, 40), 2))
    assert sorted(n for n, _ in results) == [n * n for n in range(8, 40)]
    assert os.getpid() not in {pid for _, pid in results}
    with pytest.raises(ValueError, match="seven is too many"):
        list(map_in_processes(square, range(20), 2))


def test_a_worker_that_dies_is_one_sentence():
    """No hang and no traceback of pools."""
    with pytest.raises(ValueError, match="a worker process was killed, .*fewer --workers"):
        list(map_in_processes(die, [1, 1, 1], 2))


def test_no_worker_is_refused_at_once():
    """Before anything is asked for."""
    with pytest.raises(ValueError, match="--workers 0: at least one"):
        map_in_processes(square, [1], 0)


EARLY = """
import os, signal, sys, threading
from shards.process_pool import map_in_processes, warm_up_workers

def seen(number):
    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return number, os.getpid(), "shards.commands.verify" in sys.modules, blocked

if __name__ == "__main__":
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    warm_up_workers("shards.commands.verify")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    found = list(map_in_processes(seen, range(20), 2))
    assert sorted(number for number, *_ in found) == list(range(20))
    assert all(ready and blocked for *_, ready, blocked in found), found
    assert os.getpid() not in {process for _, process, *_ in found}
    print("well")
"""


def test_warmed_up_workers_find_their_module_loaded(tmp_path):
    """They are forked from a process that has it, and a Ctrl-C is the parent's affair from their first moment on."""
    script = tmp_path / "early.py"
    script.write_text(EARLY)
    ran = subprocess.run([sys.executable, script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("well\n", "", 0)
