"""launch/throughput.py step: whole steps of the product's runs and of their peers, their memory, and their parts."""

import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from mkd.atomic import check_writable, written_aside
from mkd.benchmarks.contenders import median_ratio, medians, requirement_lines
from mkd.benchmarks.peak import peak_mib
from mkd.benchmarks.reporting import machine_facts, markdown, write_json
from mkd.benchmarks.settings import StepSpeedRun
from mkd.benchmarks.step.largest import measure_fit
from mkd.benchmarks.step.plain import plain_steps
from mkd.benchmarks.step.plain_views import write_files
from mkd.benchmarks.step.product import conduct, stage_config
from mkd.benchmarks.step.stopwatch import PARTS, Stopwatch, waiter
from mkd.benchmarks.step.unimatch import unimatch_steps
from mkd.config.schema import RunConfig, SemiRun
from mkd.distributed.world import find_world
from mkd.train.trainer import Trainer

LOWER_BOUNDS = {"supervised_vs_plain": 1.7, "kd_vs_plain": 2.0, "semi_vs_plain": 2.5}
UPPER_BOUNDS = {"EWC_share": 0.03, "EMA_share": 0.02, "augment_share": 0.08}
READ_AHEAD = 8  # batches that wait when a round begins, at most; they do not count
FEWEST = 2  # steps that count in a round
SPLIT_STEPS = 10  # one row of the journal is among them
PROFILED = 3  # steps in a trace
MEMORY_STEPS = 3

Found = dict[str, Any]


def measure_step(config: StepSpeedRun) -> None:
    """Measure the configured stages, print tables and write all figures; or find what fits a GPU.

    Raises:
        ValueError: a stage that cannot run here.
    """
    if config.fit:
        measure_fit(config)
        return
    device = find_world(config.device).device
    found: Found = {"settings": asdict(config), "machine": machine_facts(device)}
    for stage in config.stages:
        print(f"{stage}: {config.model}, crop {config.crop}, batch {config.batch}", flush=True)
        found[stage] = _measure_stage(config, stage, device)
        found |= {f"{stage}_vs_{name}": ratio for name, ratio in found[stage].get("vs", {}).items()}
    if "split" in config.parts:
        for name in UPPER_BOUNDS:
            part = name.removesuffix("_share")
            found[name] = max(_share(found[stage], part) for stage in config.stages)
    print("\n" + table(config, found))
    write_json(config.json, found)


def _share(of_stage: Found, part: str) -> float:
    seconds: dict[str, float] = of_stage["seconds_of_parts"]
    return seconds[part] / sum(seconds.values())


def table(config: StepSpeedRun, found: Found) -> str:
    """Return ratios and shares beside what is asked for, rates, memory and waits, and the parts of a step."""
    lines = requirement_lines(found, LOWER_BOUNDS, UPPER_BOUNDS)
    if "semi_vs_unimatch" in found:
        lines.append(f"{'semi_vs_unimatch':<28} {found['semi_vs_unimatch']:10.3f}   nothing is asked for")
    for stage in config.stages:
        of = found[stage]
        for name, rate in of.get("images_per_s", {}).items():
            lines.append(f"{f'{stage}, {name}':<28} {rate:10.2f}   labelled images/s")
        for name, size in of.get("peak_mib", {}).items():
            lines.append(f"{f'{stage}, {name}':<28} {size:10.0f}   MiB, peak memory")
        if "device_waits" in of:
            lines.append(f"{f'{stage}, device waits':<28} {of['device_waits']!s:>10}   of a step")
    if "split" in config.parts:
        rows = [
            {"ms of a step": part, **{s: 1e3 * found[s]["seconds_of_parts"][part] for s in config.stages}}
            for part in PARTS
        ]
        lines += ["", markdown(rows)]
    return "\n".join(lines)


def _measure_stage(config: StepSpeedRun, stage: str, device: torch.device) -> Found:
    """Return the figures of one stage; the product's run and its peers take turns in this process."""
    found: Found = {}
    watch = Stopwatch(waiter(device))

    def steps() -> Iterator[None]:
        if "rate" in config.parts:
            yield from _take_turns(config, _peers(run, files, device), waiter(device), found)
        if "split" in config.parts:
            yield from _split(watch, found)
            yield from _count_waits(device, found)
        if config.profile is not None:
            yield from _trace(config, stage)

    def conductor(trainer: Trainer) -> Iterator[None]:
        watch.watch_networks(trainer)
        return steps()

    with tempfile.TemporaryDirectory(dir=_folder(config)) as scratch:
        run = stage_config(config, stage, f"{scratch}/run")
        files = write_files(run.data.labelled, Path(scratch) / "files")
        with watch.watching():
            conduct(stage, run, conductor)
    if "memory" in config.parts:
        given = {"stage": stage, "settings": asdict(config)}
        found["peak_mib"] = {
            "ours": peak_mib(few_steps_of_ours, given),
            "plain": peak_mib(few_plain_steps, given),
        }
    return found


def _peers(run: RunConfig, files: Path, device: torch.device) -> dict[str, Iterator[None]]:
    """Return the steps of a stage's other contenders."""
    peers = {"plain": plain_steps(run, files, device)}
    if isinstance(run, SemiRun):
        peers["unimatch"] = unimatch_steps(run, files, device)
    return peers


def _take_turns(
    config: StepSpeedRun, peers: dict[str, Iterator[None]], wait: Callable[[], None], found: Found
) -> Iterator[None]:
    """Measure rounds, each of which begins with the next contender; yield for each step of the product's run."""
    names = ["ours", *peers]
    rates: dict[str, list[float]] = {name: [] for name in names}
    for number in range(config.rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            clock = seconds_a_step(config.seconds, wait)
            took = (yield from clock) if name == "ours" else _driven(clock, peers[name])
            rates[name].append(config.batch / took)
            print(f"  round {number + 1}  {name:<8} {rates[name][-1]:10.2f} labelled images/s", flush=True)
    found["vs"] = {name: median_ratio(rates["ours"], rates[name]) for name in peers}
    found["images_per_s"], found["rounds"] = medians(rates), rates


def seconds_a_step(
    seconds: float, wait: Callable[[], None], clock: Callable[[], float] = time.perf_counter
) -> Generator[None, None, float]:
    """Yield for each step that is to be done; return the seconds of one, waiting for data included.

    The first steps do not count: as many as batches may have been read ahead, or those of half the time.

    Args:
        seconds: of measuring.
        wait: for the device.
        clock: in seconds.
    """
    began, steps = clock(), 0
    while steps == 0 or (steps < READ_AHEAD and clock() - began < seconds / 2):
        yield
        steps += 1
    wait()
    began, steps = clock(), 0
    while steps < FEWEST or clock() - began < seconds:
        yield
        steps += 1
    wait()
    return (clock() - began) / steps


def _driven(clock: Generator[None, None, float], peer: Iterator[None]) -> float:
    """Do a step of a peer whenever the clock asks for one; return what the clock found."""
    while True:
        try:
            next(clock)
        except StopIteration as end:
            return float(end.value)
        next(peer)


def _split(watch: Stopwatch, found: Found) -> Iterator[None]:
    """Measure the parts of a step."""
    watch.start()
    for _ in range(SPLIT_STEPS):
        yield
    watch.stop()
    found["seconds_of_parts"] = {part: watch.seconds[part] / SPLIT_STEPS for part in PARTS}


def _count_waits(device: torch.device, found: Found) -> Iterator[None]:
    """Count how often a step waits for the GPU, by torch's own debug mode."""
    if device.type != "cuda":
        found["device_waits"] = "not on a CPU"
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(SPLIT_STEPS):
                yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in caught if "called a synchronizing CUDA operation" in str(w.message)]
    found["device_waits"] = len(waits) / SPLIT_STEPS


def _trace(config: StepSpeedRun, stage: str) -> Iterator[None]:
    """Write a trace of a few steps."""
    path = trace_path(config, stage)
    check_writable(path)
    with torch.profiler.profile() as profiler:  # of the CPU, and of the GPU where there is one
        for _ in range(PROFILED):
            yield
    with written_aside(path) as aside:
        profiler.export_chrome_trace(str(aside))
    print(f"{path}: {PROFILED} steps of {stage}; open it at https://ui.perfetto.dev or in chrome://tracing")


def trace_path(config: StepSpeedRun, stage: str) -> Path:
    """Return the file of a stage's trace: the one named, with the stage in its name where there are several."""
    path = Path(config.profile or "")
    return path if len(config.stages) == 1 else path.with_name(f"{path.stem}-{stage}{path.suffix}")


def few_steps_of_ours(stage: str, settings: Found) -> None:
    """Do a few steps of the product's run, for its peak memory."""
    config = StepSpeedRun(**settings)
    with tempfile.TemporaryDirectory(dir=_folder(config)) as scratch:
        run = stage_config(config, stage, f"{scratch}/run")
        conduct(stage, run, lambda _: iter([None] * MEMORY_STEPS))


def few_plain_steps(stage: str, settings: Found) -> None:
    """Do a few steps of the plain loop, for its peak memory."""
    config = StepSpeedRun(**settings)
    with tempfile.TemporaryDirectory(dir=_folder(config)) as scratch:
        run = stage_config(config, stage, f"{scratch}/run")
        files = write_files(run.data.labelled, Path(scratch) / "files")
        for _ in islice(plain_steps(run, files, find_world(config.device).device), MEMORY_STEPS):
            pass


def _folder(config: StepSpeedRun) -> Path:
    """Return the benchmark's folder, which now exists."""
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
