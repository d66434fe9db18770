"""Runs of the benchmark of scaling: fresh processes that share two cores of this machine."""

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkd.benchmarks.data.runner import LIMIT
from mkd.benchmarks.scaling.rank import PROFILED, WARM_UP
from mkd.benchmarks.scaling.trace import Overlap, read_overlap
from mkd.benchmarks.settings import CostRun, ScalingRun
from mkd.benchmarks.teacher.services import service
from mkd.config.load import CONFIGS, parse
from mkd.dataset.index import read_index
from mkd.model_folder import ModelCard, save_model
from mkd.models.deeplab import DeepLabV3Plus, build
from mkd.recipes import factories
from mkd.synth.landscape import render, write_orthomosaic
from shards.commands.tile import tile
from shards.inputs.tiling import TilingOptions
from shards.output.build_options import BuildOptions

CORES = 2  # for all processes together, so that ranks beyond them share
SCENE, TILE = 1024, 256  # pixels
LAUNCH = Path(__file__).resolve().parents[3] / "launch" / "teacher.py"
PROFILE_RANKS, PROFILE_CROP = 2, 64

Parts = dict[str, dict[str, float]]  # seconds, sent, calls -> by name


@contextlib.contextmanager
def few_cores() -> Iterator[int]:
    """Keep this process and those it starts on `CORES` cores, with one thread for each; yield how many there are."""
    before, threads = os.sched_getaffinity(0), os.environ.get("OMP_NUM_THREADS")
    os.sched_setaffinity(0, sorted(before)[:CORES])
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield min(CORES, len(before))
    finally:
        os.sched_setaffinity(0, before)
        del os.environ["OMP_NUM_THREADS"]
        os.environ.update({} if threads is None else {"OMP_NUM_THREADS": threads})


def make_data(config: ScalingRun, folder: Path) -> str:
    """Return the data set to train on: that of the config, or one cut from procedural landscapes."""
    if config.data is not None:
        return config.data
    made = folder / "data"
    if not (made / "index.json").is_file():
        scene = write_orthomosaic(render("target", SCENE, SCENE, 0), folder / "scenes", "scene")
        classes = CONFIGS / "datasets" / "demo_target.yaml"
        tile(scene[0], classes, BuildOptions(made), scene[1], TilingOptions(size=TILE))
    return str(made)


def network(name: str, classes: int) -> DeepLabV3Plus:
    """Return a network of configs/model on the current default device."""
    plan = factories.architecture(parse(CostRun, "cost", [f"model={name}"]).model)
    return build(plan, classes)


def make_start(name: str, data: str, folder: Path) -> Path:
    """Write a model folder with random weights for the classes of a data set."""
    index, out = read_index(data), folder / f"start-{name}"
    model = network(name, index.num_classes)
    save_model(
        out,
        model.state_dict(),
        ModelCard(model.architecture, tuple(index.classes), tuple(index.palette)),
    )
    return out


def measure(config: ScalingRun, ranks: int, data: str, start: Path, serves: bool) -> Parts:
    """Train on this many ranks and return a step's parts: the mean over counted steps and ranks.

    Args:
        config: of the benchmark.
        ranks: processes, >= 1.
        data: labelled data set, also read as the unlabelled one.
        start: model folder.
        serves: label with a teacher service on the same cores; else each rank labels its own tiles.
    """
    given = _overrides(config.batch * ranks, config.crop, WARM_UP + config.steps, data, start)
    given["data.workers"] = int(
        serves
    )  # without a service all work is the rank's own, which makes it countable
    with contextlib.ExitStack() as stack:
        if serves:
            keys = {"model": start, "device": "cpu", "max_batch": config.batch, "max_tile": config.crop}
            endpoint = stack.enter_context(service(str(LAUNCH), "serve", *_arguments(keys)))
            given |= {"teacher.kind": "service", "teacher.endpoints": f"[{endpoint}]"}
        out = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        start_ranks(ranks, "train", str(out), "plain", *_arguments(given | {"out": out / "run"}))
        steps = [s for r in range(ranks) for s in json.loads((out / f"rank-{r}.json").read_text())]
    return mean_parts(steps)


def profile_overlap(config: ScalingRun, data: str, start: Path) -> Overlap:
    """Train on `PROFILE_RANKS` ranks under torch.profiler; the trace stays in ``OUT/profile``."""
    out = Path(config.out).resolve() / "profile"
    out.mkdir(parents=True, exist_ok=True)
    given = _overrides(PROFILE_RANKS, PROFILE_CROP, WARM_UP + PROFILED, data, start)
    with tempfile.TemporaryDirectory() as folder:
        overrides = _arguments(given | {"out": Path(folder) / "run"})
        start_ranks(PROFILE_RANKS, "train", str(out), "profile", *overrides)
    return read_overlap(out / "trace.json.gz")


def measure_link(ranks: int) -> dict[str, float]:
    """Return the seconds of bare collective calls, the ranks doing nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        start_ranks(ranks, "link", folder)
        found: dict[str, float] = json.loads((Path(folder) / "link.json").read_text())
        return found


def mean_parts(steps: list[Parts]) -> Parts:
    """Return the mean of each part over steps; a part that a step lacks counts as 0."""
    kinds = ("seconds", "sent", "calls")
    names = {kind: sorted({name for step in steps for name in step[kind]}) for kind in kinds}
    return {
        kind: {name: statistics.fmean(s[kind].get(name, 0.0) for s in steps) for name in names[kind]}
        for kind in kinds
    }


def _overrides(batch: int, crop: int, steps: int, data: str, start: Path) -> dict[str, Any]:
    return {
        "semi.start": start,
        "data.labelled": data,
        "data.unlabelled": data,
        "data.batch": batch,
        "data.crop": crop,
        "data.workers": 0,
        "steps": steps,
        "log_every": steps,
        "save_every": steps,
        "semi.confidence": 0.0,
        "device": "cpu",
    }


def _arguments(given: dict[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in given.items()]


def start_ranks(ranks: int, *arguments: str) -> None:
    """Run `mkd.benchmarks.scaling.rank` on gloo ranks of this machine, as torchrun would, to their end.

    Raises:
        ValueError: a rank did not end well: its last words; the others are ended.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "mkd.benchmarks.scaling.rank", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        started = []
        for rank in range(ranks):
            mine = {k: str(v) for k, v in {**place, "RANK": rank, "LOCAL_RANK": rank}.items()}
            with Path(folder, str(rank)).open("wb") as said:
                started.append(
                    subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, **mine})
                )
        try:
            _wait(started, Path(folder))
        finally:
            for process in started:
                process.kill()
                process.wait()


def _wait(started: list[subprocess.Popen[bytes]], folder: Path) -> None:
    end = time.monotonic() + LIMIT
    while None in (states := [process.poll() for process in started]) or any(states):
        failed = next((rank for rank, state in enumerate(states) if state), None)
        if failed is not None:
            words = Path(folder, str(failed)).read_text().split("\n")
            raise ValueError(
                f"rank {failed} of {len(started)} did not end well: {' '.join(words[-3:]).strip()}"
            )
        if time.monotonic() > end:
            raise ValueError(
                f"{len(started)} ranks did not end within {LIMIT} s; give fewer steps or a smaller crop"
            )
        time.sleep(0.05)
