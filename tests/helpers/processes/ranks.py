"""Run a function on real ranks: processes with torchrun's environment that meet over gloo on this machine."""

import importlib
import multiprocessing
import os
import socket
import time
from pathlib import Path

import torch

from mkd.distributed.world import find_world

# Ranks are forked from a server of one thread that has imported torch once, and what its optimizers import: seconds.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["tests.helpers.processes.ranks", "tests.helpers.training.runs", "torch._dynamo"]
)


def start_ranks(target, ranks, out, *args):
    """Start the processes of `run_ranks`; each writes OUT/RANK.pt, and what it prints to OUT/RANK.txt."""
    Path(out).mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(ranks):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        env = {**os.environ, **{k: str(v) for k, v in place.items()}}
        Path(out, f"{rank}.pt").unlink(missing_ok=True)
        Path(out, f"{rank}.txt").write_text("")
        started.append(_SERVER.Process(target=_be_rank, args=(target, str(out), env, args), daemon=True))
        started[-1].start()
    return started


def run_ranks(target, ranks, out, *args, timeout=240):
    """Call `f(world, *args)` on each rank and return the results in rank order.

    A target is `package.module:function`; args are strings; a result is what torch.load reads with weights_only.
    A rank is judged by the result that it wrote, not by its exit, at which gloo may die.
    """
    processes, end = start_ranks(target, ranks, out, *args), time.monotonic() + timeout
    results = [Path(out, f"{rank}.pt") for rank in range(ranks)]
    try:
        while not all(r.exists() for r in results):
            dead = [n for n, p in enumerate(processes) if p.exitcode is not None and not results[n].exists()]
            time.sleep(0.3 if dead else 0.01)  # who died first of several says why; the others lost a peer
            assert not dead, "\n".join(f"rank {n} died:\n{_said(out, n)[-5000:]}" for n in dead)
            if time.monotonic() > end:
                said = "\n".join(_said(out, n)[-1500:] for n in range(ranks))
                raise AssertionError(f"no result within {timeout} s:\n{said}")
        for process in processes:  # so that nothing of them runs beside the next test
            process.join(60)
    finally:
        for process in processes:
            process.kill()
            process.join()
    return [torch.load(r, weights_only=True) for r in results]


def _said(out, rank):
    return Path(out, f"{rank}.txt").read_text()


def _be_rank(target, out, env, args):
    """Be one rank, in a process of its own."""
    os.environ.clear()
    os.environ.update(env)
    said = os.open(Path(out, f"{env['RANK']}.txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    torch.set_num_threads(1)
    module, name = target.split(":")
    world = find_world("cpu")
    result = getattr(importlib.import_module(module), name)(world, *args)
    aside = Path(out, f"{world.rank}.aside")
    torch.save(result, aside)
    aside.rename(Path(out, f"{world.rank}.pt"))
    world.close()
