"""Seconds that a checkpoint costs: written to disk while training waits, or copied for a thread that writes.

    python -m mkd.benchmarks.checkpoint_cost [MODEL] [FOLDER]

MODEL is a file of configs/model (hrnet_w48_psa); the checkpoint is its weights, momentum and EMA. FOLDER (the working
folder) lies on the disk in question.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mkd.benchmarks.network import build_named
from mkd.train.run.checkpoint import Checkpoints, copied

ROUNDS = 3


def main(model: str = "hrnet_w48_psa", place: str = ".") -> None:
    """Print the checkpoint's size and the median seconds of writing and of copying it."""
    weights = build_named(model, classes=6).state_dict()
    names = ("model", "optimizer", "step_state")  # as large as weights, momentum and average
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state = {name: {k: t.to(device, copy=True) for k, t in weights.items()} for name in names}
    with tempfile.TemporaryDirectory(dir=place) as folder:
        checkpoints = Checkpoints(Path(folder))
        write = seconds(lambda: checkpoints.save({"step": 1, **state}))
        size = checkpoints.latest.stat().st_size / 1e9
    copy = seconds(lambda: copied(state))
    print(
        f"{model}: {size:.2f} GB; torch.save and fsync {write:.2f} s; copy from {device} to host {copy:.2f} s"
    )


def seconds(work: Callable[[], object]) -> float:
    """Return the median seconds of `ROUNDS` calls, after one that does not count."""
    found = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found[1:])


if __name__ == "__main__":
    main(*sys.argv[1:])
