"""The runs behind one table: train each row for each seed, evaluate, average."""

import contextlib
import difflib
import json
import multiprocessing
import os
import re
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from mkd.atomic import check_writable, write_text
from mkd.cli.exit import several_ranks
from mkd.cli.log_lines import named_lines
from mkd.config.constraints import dataset
from mkd.config.cross_checks import check
from mkd.config.load import load, parse
from mkd.config.schema import EvaluateRun, Experiment, KdRun, RunConfig, SemiRun, SupervisedRun
from mkd.dataset.index import DatasetIndex, read_index
from mkd.recipes.distill import kd
from mkd.recipes.evaluate import evaluate
from mkd.recipes.semi import semi
from mkd.recipes.supervised import supervised

KINDS: dict[str, Any] = {"supervised": SupervisedRun, "kd": KdRun, "semi": SemiRun}


def experiment(config: Experiment) -> dict[str, Any]:
    """Run or go on with an experiment; return and write ``OUT/results.json``.

    Each run lies in ``OUT/RUN/seedN``; ended runs are not repeated.

    Raises:
        ValueError: a row or an override names a run that is not there, or this is one of several ranks.
    """
    check_alone("experiment")
    for title, run in (config.rows | config.controls).items():
        if run not in config.runs:
            raise ValueError(f"rows: '{title}' names the run '{run}'; the runs are {', '.join(config.runs)}")
    measured = {*config.rows.values(), *config.controls.values()}
    for title, pair in config.differences.items():
        if len(pair) != 2 or not set(pair) <= measured:
            raise ValueError(
                f"differences: '{title}' is {list(pair)}; give two runs of rows and controls: {', '.join(measured)}"
            )
    _check_runs(config)
    check_writable(Path(config.out) / "results.json")
    processes = min(config.parallel, len(config.seeds))
    if processes > 1:
        threads = max(1, (os.cpu_count() or 1) // processes)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, context, _share_machine, (threads,)) as pool:
            list(pool.map(partial(_one_seed, config), config.seeds))
    else:
        for seed in config.seeds:
            _one_seed(config, seed)
    rows, controls = (
        [_row(config, t, run) for t, run in part.items()] for part in (config.rows, config.controls)
    )
    table = {
        "name": config.name,
        "title": config.title,
        "seeds": config.seeds,
        "rows": rows,
        "controls": controls,
        "differences": [_difference(config, title, *pair) for title, pair in config.differences.items()],
    }
    write_text(Path(config.out) / "results.json", json.dumps(table, indent=1) + "\n")
    return table


def check_alone(script: str) -> None:
    """Refuse to be one of several ranks, each of which would start all runs."""
    if several_ranks():
        raise ValueError(
            f"launch/{script}.py starts its runs itself and is not for several ranks; start it with python, or its "
            "runs one by one with torchrun"
        )


def _check_runs(config: Experiment) -> None:
    """Refuse a mistake in any run, of any seed, before the first one is trained: keys, folders, classes, test set."""
    measured, sets = {*config.rows.values(), *config.controls.values()}, _Sets()
    for seed in config.seeds:
        test = test_set(config, seed)
        dataset("test", test)
        for number, (name, step) in enumerate(config.runs.items()):
            if step.script not in KINDS:
                raise ValueError(
                    f"runs.{name}.script={step.script} is not allowed; choose supervised, kd or semi"
                )
            _check_order(config, name, list(config.runs)[:number])
            try:
                run = parse(KINDS[step.script], step.script, _overrides(config, name, seed))
                check(run, later=config.out)
                sets.check(run, test if name in measured else None)
            except ValueError as error:
                raise ValueError(f"run '{name}', seed {seed}: {error}") from None


def _check_order(config: Experiment, name: str, before: list[str]) -> None:
    """Refuse a run that goes on from one that is trained after it."""
    step = config.runs[name]
    for override in [*config.common.get(step.script, []), *step.overrides]:
        for other in re.findall(r"\{run:([^}]*)\}", override):
            if other in config.runs and other not in before:
                raise ValueError(
                    f"run '{name}' goes on from {{run:{other}}}, which is not trained before it; put '{other}' above"
                )


class _Sets:
    """Data sets of the runs, each index read once."""

    def __init__(self) -> None:
        self._indexes: dict[str, DatasetIndex] = {}

    def check(self, run: RunConfig, test: str | None) -> None:
        """Refuse tiles without labels where labels are needed, and sets of other classes than the labelled one."""
        if run.data.classes is not None:
            raise ValueError(
                f"data.classes={run.data.classes}: an experiment reads its sets many times: pack plain folders first, "
                "by python -m shards pack"
            )
        labelled = self._read(run.data.labelled)
        for key, path in (("data.labelled", run.data.labelled), ("data.val", run.data.val), ("test", test)):
            if path is None:
                continue
            index = self._read(path)
            if index.labelled < index.samples:
                raise ValueError(f"{key}={path}: {index.samples - index.labelled} of its tiles have no label")
            if index.classes != labelled.classes:
                raise ValueError(
                    f"{key}={path} has the classes {', '.join(index.classes)}, data.labelled has "
                    f"{', '.join(labelled.classes)}; give sets of the same classes"
                )
        if run.data.unlabelled is not None:
            self._read(run.data.unlabelled)

    def _read(self, path: str) -> DatasetIndex:
        if path not in self._indexes:
            self._indexes[path] = read_index(path)
        return self._indexes[path]


def test_set(config: Experiment, seed: int) -> str:
    """Return the data set that the runs of one seed are evaluated on."""
    return _fill(config, config.test, seed)


def run_folder(config: Experiment, run: str, seed: int) -> Path:
    """Return the folder of one run for one seed."""
    return Path(config.out) / run / f"seed{seed}"


def _share_machine(threads: int) -> None:
    """Share the cores, and print plain lines: several progress bars on one terminal overwrite each other."""
    torch.set_num_threads(threads)
    os.environ["TTY_COMPATIBLE"] = "0"


def _one_seed(config: Experiment, seed: int) -> None:
    """Train all runs of one seed in their order, and evaluate those that rows name."""
    together = min(config.parallel, len(config.seeds)) > 1
    for name in config.runs:
        # Lines of several seeds mix: each says which run it is of.
        with named_lines(f"{name} seed{seed}: ") if together else contextlib.nullcontext():
            _train(config, name, seed)
    for run in (config.rows | config.controls).values():
        folder = run_folder(config, run, seed)
        data, out = test_set(config, seed), str(folder / "results.json")
        if not Path(out).is_file():
            evaluate(EvaluateRun(model=str(folder / "model"), data=data, out=out))


def _train(config: Experiment, name: str, seed: int) -> None:
    step, overrides = config.runs[name], _overrides(config, name, seed)
    print(f"== {name}, seed {seed}: python launch/{step.script}.py {' '.join(overrides)}", flush=True)
    match step.script:
        case "supervised":
            supervised(load(SupervisedRun, "supervised", overrides))
        case "kd":
            kd(load(KdRun, "kd", overrides))
        case "semi":
            semi(load(SemiRun, "semi", overrides))


def _overrides(config: Experiment, name: str, seed: int) -> list[str]:
    step = config.runs[name]
    filled = [_fill(config, o, seed) for o in [*config.common.get(step.script, []), *step.overrides]]
    return [f"out={run_folder(config, name, seed)}", f"seed={seed}", *filled]


def _fill(config: Experiment, text: str, seed: int) -> str:
    """Put folders and seed in the places of an override that are for them; what is put in stays as it is.

    Raises:
        ValueError: a place for something else, or a run that there is not.
    """
    given = {"data": config.data, "out": config.out, "seed": str(seed)}
    given |= {f"run:{name}": str(run_folder(config, name, seed)) for name in config.runs}

    def put(found: re.Match[str]) -> str:
        asked = found[1]
        if asked in given and found[0].endswith("}"):
            return given[asked]
        near = difflib.get_close_matches(asked, given, n=1, cutoff=0.6)
        meant = f"did you mean {{{near[0]}}}? " if near else ""
        raise ValueError(
            f"override '{text}': {{{asked}}} is not known; {meant}only {{data}}, {{out}}, {{seed}} and {{run:NAME}} "
            f"are filled in, NAME being one of {', '.join(config.runs)}"
        )

    return re.sub(r"\{([^{}]*)\}?", put, text)


def _row(config: Experiment, title: str, run: str) -> dict[str, Any]:
    """Return mean and standard deviation over the seeds; a class absent from the test set stays null."""
    paths = [run_folder(config, run, seed) / "results.json" for seed in config.seeds]
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    mious = [r["miou"] for r in results]
    row = {
        "name": title,
        "miou_mean": mean(mious),
        "miou_std": _std(mious),
        "seeds": dict(zip(map(str, config.seeds), mious, strict=True)),
        "iou": {c: _mean(r["iou"][c] for r in results) for c in results[0]["iou"]},
    }
    if config.frequent:
        if lacking := [c for c in config.frequent if row["iou"].get(c) is None]:
            raise ValueError(
                f"frequent: {', '.join(lacking)} not among the test set's classes {list(row['iou'])}"
            )
        frequent = [mean([r["iou"][c] for c in config.frequent]) for r in results]
        row |= {"frequent_mean": mean(frequent), "frequent_std": _std(frequent)}
    return row


def _difference(config: Experiment, title: str, run: str, other: str) -> dict[str, Any]:
    """Return the mean over the seeds of the difference of two runs' mIoU, and its standard error.

    Each seed has its own start and order, which both runs share: so they are compared seed by seed. A difference counts
    as shown from twice its standard error on.
    """
    pairs = [
        [json.loads((run_folder(config, r, seed) / "results.json").read_text())["miou"] for r in (run, other)]
        for seed in config.seeds
    ]
    found = [one - two for one, two in pairs]
    spread = _std(found)
    error = None if spread is None else spread / len(found) ** 0.5
    difference = {
        "name": title,
        "mean": mean(found),
        "standard_error": error,
        "seeds": dict(zip(map(str, config.seeds), found, strict=True)),
        "shown": error is not None and abs(mean(found)) > 2 * error,
    }
    return difference | {"text": _in_words(difference)}


def _in_words(found: dict[str, Any]) -> str:
    """Return a difference in words: "SSL - control: +3.1 +- 0.8 mIoU points", and whether that shows anything."""
    points, error = 100 * found["mean"], found["standard_error"]
    if error is None:
        return f"{found['name']}: {points:+.1f} mIoU points, not shown (one seed)"
    shown = "" if found["shown"] else ", not shown (below twice its standard error)"
    return f"{found['name']}: {points:+.1f} +- {100 * error:.1f} mIoU points over {len(found['seeds'])} seeds{shown}"


def _std(values: list[float]) -> float | None:
    """Return the standard deviation, or None for one seed."""
    return stdev(values) if len(values) > 1 else None


def _mean(values: Iterable[float | None]) -> float | None:
    present = [v for v in values if v is not None]
    return mean(present) if present else None
