"""What the runs of a table came to: rows over the seeds, differences, and the files that hold them."""

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mkd.atomic import write_text
from mkd.config.schema import Experiment
from mkd.recipes.tables.budget import budgets
from mkd.recipes.tables.network_cost import network_cost
from mkd.recipes.tables.run_list import page_folder, run_folder
from mkd.report.table_files import csv_table, markdown_table


def collect(config: Experiment) -> dict[str, Any]:
    """Return the table of an experiment whose runs have all been evaluated.

    Returns:
        "name", "title", "seeds"; "rows" and "controls", each with its name, run, folder, mean and standard deviation
        of mIoU, seeds, IoU by class, the paper's mIoU where that is known; "differences"; "budget", what doubling would
        buy. Shares are in [0, 1].
    """
    rows, controls = (
        [_row(config, title, run) | _about(config, title, run) for title, run in part.items()]
        for part in (config.rows, config.controls)
    )
    return {
        "name": config.name,
        "title": config.title,
        "seeds": config.seeds,
        "rows": rows,
        "controls": controls,
        "budget": budgets(config, rows),
        "differences": [_difference(config, title, *pair) for title, pair in config.differences.items()],
    }


def write_results(config: Experiment, table: dict[str, Any]) -> None:
    """Write results.json, table.md and table.csv into the folder of the experiment's page."""
    folder = page_folder(config)
    write_text(folder / "results.json", json.dumps(table, indent=1) + "\n")
    write_text(folder / "table.md", markdown_table(table))
    write_text(folder / "table.csv", csv_table(table))


def _about(config: Experiment, title: str, run: str) -> dict[str, Any]:
    """Return where a row's runs lie, what the paper has, and what its network costs, where these are asked for."""
    about: dict[str, Any] = {
        "run": run,
        "folder": str(Path(config.out) / run),
        "iou_by_seed": {str(seed): _evaluated(config, run, seed)["iou"] for seed in config.seeds},
    }
    if title in config.paper:
        about["paper"] = config.paper[title] / 100
    if config.cost:
        about["cost"] = network_cost(run_folder(config, run, config.seeds[0]))
    return about


def _evaluated(config: Experiment, run: str, seed: int) -> dict[str, Any]:
    path = run_folder(config, run, seed) / "results.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _row(config: Experiment, title: str, run: str) -> dict[str, Any]:
    """Return mean and standard deviation over the seeds; a class absent from the test set stays null."""
    results = [_evaluated(config, run, seed) for seed in config.seeds]
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
    pairs = [[_evaluated(config, r, seed)["miou"] for r in (run, other)] for seed in config.seeds]
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
