"""One rank of the benchmark of scaling: the ordinary semi-supervised run under a meter, or a bare all-reduce.

python -m mkd.benchmarks.scaling.rank train OUT profile|plain SEMI_OVERRIDES..
python -m mkd.benchmarks.scaling.rank link OUT

with torchrun's environment; `mkd.benchmarks.scaling.runner` starts them.
"""

import contextlib
import json
import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile, schedule

from mkd.atomic import write_text
from mkd.benchmarks.scaling.cost_model import LARGE, SHORT
from mkd.benchmarks.scaling.meter import StepMeter
from mkd.config.load import load
from mkd.config.schema import SemiRun
from mkd.distributed.engine import Engine
from mkd.distributed.world import find_world
from mkd.recipes.semi import semi
from mkd.teacher.client.remote_teacher import RemoteTeacher
from mkd.teacher.local import LocalTeacher
from mkd.train import batches
from mkd.train.steps.semi import SemiStep

WARM_UP = 3  # steps before the clock: DistributedDataParallel forms its buckets after the first
PROFILED = 3  # steps in a trace
TRIPS = 30


def train(out: Path, profiles: bool, overrides: list[str]) -> None:
    """Train, and write what each step did to ``out/rank-R.json``, rank 0 its trace to ``out/trace.json.gz``."""
    meter = StepMeter()
    tracing = profiler(out) if profiles else contextlib.nullcontext()
    with tracing as trace:
        watch(meter, trace)
        semi(load(SemiRun, "semi", overrides))
    write_text(out / f"rank-{_rank()}.json", json.dumps(meter.steps[WARM_UP:]))


def watch(meter: StepMeter, trace: Any) -> None:
    """Replace the functions of this process that a step waits for by timed ones.

    Args:
        meter: gets time and volume.
        trace: is told of each step's end; None where nothing is traced.
    """
    setattr(batches, "stream", meter.timed_stream(getattr(batches, "stream"), "data"))  # noqa: B009, B010
    for teacher in (LocalTeacher, RemoteTeacher):
        setattr(teacher, "collect", meter.timed(teacher.collect, "teacher"))  # noqa: B010
        setattr(teacher, "follow", meter.timed(teacher.follow, "publish"))  # noqa: B010
    setattr(Engine, "backward", meter.backward(Engine.backward))  # noqa: B010
    ends = SemiStep.after_update

    def after_update(step: SemiStep) -> None:
        ends(step)
        meter.end_step()
        if trace is not None:
            trace.step()

    setattr(SemiStep, "after_update", after_update)  # noqa: B010
    meter.watch_collectives()


def profiler(out: Path) -> Any:
    """Return a profiler of `PROFILED` steps after the warm-up."""

    def export(trace: Any) -> None:
        if _rank() == 0:
            trace.export_chrome_trace(str(out / "trace.json.gz"))

    plan = schedule(wait=WARM_UP - 1, warmup=1, active=PROFILED, repeat=1)
    return profile(
        activities=[ProfilerActivity.CPU], schedule=plan, on_trace_ready=export, record_shapes=True
    )


def link(out: Path) -> None:
    """Write the median seconds of a small and a large all-reduce to ``out/link.json``."""
    world = find_world("cpu")
    found = {}
    for name, size in (("small", SHORT), ("large", LARGE)):
        found[name] = _median(partial(dist.all_reduce, torch.zeros(size // 4)))
    if world.is_main:
        write_text(out / "link.json", json.dumps(found))
    world.close()


def _median(work: Any) -> float:
    times = []
    for _ in range(TRIPS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times[TRIPS // 5 :])


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["train", out, profiles, *overrides]:
            train(Path(out), profiles == "profile", overrides)
        case ["link", out]:
            link(Path(out))
        case other:
            sys.exit(f"bench_scaling_rank: {other} is not: train OUT profile|plain OVERRIDES.., or link OUT")
    sys.stdout.flush()
    os._exit(0)  # the result is written, and gloo sometimes aborts a process at the interpreter's exit
