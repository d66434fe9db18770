"""Ranks of one start find each other, whatever an earlier start has left in torchrun's store."""

import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from mkd.distributed.rendezvous import find_store, rendezvous

SOON = timedelta(seconds=20)
SCRIPT = """
import os, signal, sys, time
import torch, torch.distributed as dist
from mkd.distributed.world import find_world
from mkd.cli.exit import leave
first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
if not first and os.environ["RANK"] == os.environ["LATE"]:
    time.sleep(3)
world = find_world("cpu")
for step in range(4):
    total = world.all_reduce_sum(torch.ones(1))
    if first and step == 2 and world.rank == 1 - int(os.environ["LATE"]):
        os.kill(os.getpid(), signal.SIGKILL)
print(f"rank {world.rank} sees {int(total)}", flush=True)
world.barrier()
leave(0)
"""


@pytest.fixture
def store():
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def client(store):
    return dist.TCPStore("127.0.0.1", store.port, is_master=False, wait_for_workers=False)


def start(store, ranks, delays):
    """Let ranks meet in threads; return where each of them is."""
    found = {}

    def one(rank):
        time.sleep(delays.get(rank, 0))
        found[rank] = rendezvous(client(store), rank, ranks, SOON)

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("late", [0, 1, 2])
def test_each_start_is_a_round_of_its_own(store, late):
    """Three starts of three ranks in one store, one rank later than the others: all in one place, another each time."""
    rounds = []
    for _ in range(3):
        found = start(store, 3, {late: 1.5})
        assert len(found) == 3
        rounds.append(set(found.values()))
    assert [len(each) for each in rounds] == [1, 1, 1]
    assert len(set.union(*rounds)) == 3


def test_a_rank_that_does_not_come_is_named(store):
    """Nobody waits for ever: one sentence."""
    brief = timedelta(seconds=0.5)
    with pytest.raises(ValueError, match="rank 1 did not start within"):
        rendezvous(client(store), 0, 2, brief)
    with pytest.raises(ValueError, match="rank 0 did not answer within"):
        rendezvous(client(store), 1, 2, brief)


def test_without_torchrun_torch_makes_its_own(monkeypatch):
    """Slurm or a person may have set the environment instead."""
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert find_store(0, 2, SOON) is None


@pytest.mark.parametrize("late", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_torchrun_starts_again(tmp_path, monkeypatch, late):
    """A rank is killed with -9, and after the restart the other one comes late: both go on."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    monkeypatch.setenv("LATE", late)
    words = ["--standalone", "--nproc-per-node=2", "--max-restarts=1", str(script)]
    ran = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words], capture_output=True, text=True, timeout=200
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("sees 2") == 2
