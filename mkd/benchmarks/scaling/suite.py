"""launch/throughput.py scaling: steps measured on gloo ranks of this machine, and an upper bound for GPUs."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from mkd.benchmarks.data.tiles import make_labelled_set
from mkd.benchmarks.network import build_named, write_random_model
from mkd.benchmarks.reporting import markdown, write_json
from mkd.benchmarks.scaling.rank import PURPOSES, WARM_UP
from mkd.benchmarks.scaling.roofline import MACHINES, SOURCES, bounds, volumes
from mkd.benchmarks.settings import ScalingRun
from mkd.dataset.index import read_index


def measure_scaling(config: ScalingRun) -> None:
    """Measure steps of several ranks, count volumes, bound the steps of GPUs; print and write all.

    Raises:
        ValueError: a rank that failed.
    """
    model = build_named(config.predict, classes=6, device="meta")
    measured = [measure(config, ranks) for ranks in sorted(config.ranks)]
    for row in measured:
        row["efficiency"] = row["images/s"] / row["ranks"] / measured[0]["images/s"]
    tables = {
        "measured": measured,
        "volumes": [volumes(model)],
        "bounds": bounds(config, model),
        "assumed": [*(asdict(machine) for machine in MACHINES.values()), SOURCES],
    }
    cores = len(os.sched_getaffinity(0))
    titles = (
        f"Measured: {config.model}, {2 * config.batch} tiles of {config.crop} px a rank, gloo, {cores} cores",
        f"Counted: {config.predict}, bytes of a step",
        f"Upper bound, not measured: {config.predict}, tiles of {config.size} px, least ms of a step",
        f"Assumed (measured and given instead of a peak: {config.achieved or 'none'})",
    )
    for title, rows in zip(titles, tables.values(), strict=True):
        print(f"\n{title}\n\n{markdown(rows)}")
    write_json(config.json, {"settings": asdict(config), "cores": cores, **tables})


def measure(config: ScalingRun, ranks: int) -> dict[str, Any]:
    """Train on so many ranks; return the means over counted steps and ranks, sent megabytes of one rank."""
    start, data = f"{config.out}/start", config.data or make_labelled_set(Path(config.out))
    index, steps = read_index(data), WARM_UP + config.steps
    write_random_model(start, config.model, index.classes, index.palette)
    overrides = [f"semi.start={start}", f"data.labelled={data}", f"data.unlabelled={data}", "device=cpu"]
    overrides += [f"data.batch={ranks * config.batch}", f"data.crop={config.crop}", "data.workers=0"]
    overrides += [f"{key}={steps}" for key in ("steps", "log_every", "save_every")] + ["semi.confidence=0"]
    with tempfile.TemporaryDirectory() as out:
        start_ranks(ranks, out, f"out={out}/run", *overrides)
        recorded = [step for file in Path(out).glob("rank-*.json") for step in json.loads(file.read_text())]
    seconds = fmean(step["seconds"] for step in recorded)
    row = {"ranks": ranks, "step, ms": 1e3 * seconds, "images/s": 2 * config.batch * ranks / seconds}
    for purpose in (*dict.fromkeys(PURPOSES.values()), "losses"):
        row[f"{purpose}, MB"] = fmean(step["sent"].get(purpose, 0.0) for step in recorded) / 1e6
    return row


def start_ranks(ranks: int, *arguments: str) -> None:
    """Run `mkd.benchmarks.scaling.rank` on so many gloo ranks of this machine to their end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += ["-m", "mkd.benchmarks.scaling.rank", *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if subprocess.run(command, stdout=subprocess.DEVNULL, env=env).returncode:
        raise ValueError(f"{ranks} ranks did not end well; the error of the one that failed is above")
