"""The runs behind one table: train what it needs for each seed, evaluate, average."""

import contextlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mkd.atomic import check_writable
from mkd.cli.exit import several_ranks
from mkd.cli.log_lines import named_lines
from mkd.config.load import load
from mkd.config.schema import EvaluateRun, Experiment, KdRun, SemiRun, SupervisedRun
from mkd.recipes.distill import kd
from mkd.recipes.evaluate import evaluate
from mkd.recipes.semi import semi
from mkd.recipes.supervised import supervised
from mkd.recipes.tables.drawn_sets import draw_table_sets
from mkd.recipes.tables.results import collect, write_results
from mkd.recipes.tables.run_checks import check_runs
from mkd.recipes.tables.run_list import (
    measured_runs,
    needed_runs,
    overrides_of,
    page_folder,
    run_folder,
    test_set,
)


def experiment(config: Experiment) -> dict[str, Any]:
    """Run or go on with an experiment; return and write its results, see `collect` and `write_results`.

    Each run lies in ``OUT/RUN/seedN``; only those that rows, controls and differences need are trained, and ended ones
    are not repeated.

    Raises:
        ValueError: a row or an override names a run that is not there, or this is one of several ranks.
    """
    check_alone("experiment")
    measured_runs(config)
    if config.drawn:
        draw_table_sets(Path(config.data))
    check_runs(config)
    check_writable(page_folder(config) / "results.json")
    processes = min(config.parallel, len(config.seeds))
    if processes > 1:
        threads = max(1, (os.cpu_count() or 1) // processes)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, context, _share_machine, (threads,)) as pool:
            list(pool.map(partial(_one_seed, config), config.seeds))
    else:
        for seed in config.seeds:
            _one_seed(config, seed)
    table = collect(config)
    write_results(config, table)
    return table


def check_alone(script: str) -> None:
    """Refuse to be one of several ranks, each of which would start all runs."""
    if several_ranks():
        raise ValueError(
            f"launch/{script}.py starts its runs itself and is not for several ranks; start it with python, or its "
            "runs one by one with torchrun"
        )


def _share_machine(threads: int) -> None:
    """Share the cores, and print plain lines: several progress bars on one terminal overwrite each other."""
    torch.set_num_threads(threads)
    os.environ["TTY_COMPATIBLE"] = "0"


def _one_seed(config: Experiment, seed: int) -> None:
    """Train the runs of one seed in their order, and evaluate those that rows name."""
    together = min(config.parallel, len(config.seeds)) > 1
    for name in needed_runs(config):
        # Lines of several seeds mix: each says which run it is of.
        with named_lines(f"{name} seed{seed}: ") if together else contextlib.nullcontext():
            _train(config, name, seed)
    for run in measured_runs(config):
        folder = run_folder(config, run, seed)
        data, out = test_set(config, seed), str(folder / "results.json")
        if not Path(out).is_file():
            evaluate(EvaluateRun(model=[str(folder / "model")], data=data, out=out))


def _train(config: Experiment, name: str, seed: int) -> None:
    step, overrides = config.runs[name], overrides_of(config, name, seed)
    print(f"== {name}, seed {seed}: python launch/{step.script}.py {' '.join(overrides)}", flush=True)
    match step.script:
        case "supervised":
            supervised(load(SupervisedRun, "supervised", overrides))
        case "kd":
            kd(load(KdRun, "kd", overrides))
        case "semi":
            semi(load(SemiRun, "semi", overrides))
