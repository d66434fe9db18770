"""The page of launch/evaluate.py: of one model with its run, or of several side by side."""

import json
import shlex
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from mkd.config.schema import EvaluateRun
from mkd.inference.validation_picture import spread
from mkd.loader.loader import TileSet
from mkd.recipes.reports import PANELS, panels
from mkd.report.content import Evaluation, Panel, Report, Row, RunMetrics
from mkd.report.page import write_report
from mkd.report.run_report import report_of_run


def evaluation_report(config: EvaluateRun) -> None:
    """Write report= from out=; of one model in a run folder with its curves and config, else with those of each run.

    Raises:
        ValueError: a page that cannot be written.
    """
    tiles = TileSet(config.data, labelled=True, max_pixels=config.max_pixels)
    found = json.loads(Path(config.out).read_text(encoding="utf-8"))
    page = _of_several(config, found) if "models" in found else _of_one(config)
    names = list(found.get("models", {"prediction": None}))
    folders = {name: Path(path) for name, path in zip(names, config.model, strict=True)}
    shown, worst = _pictures(tiles, folders, [tile["sample"] for tile in found["worst_tiles"]])
    index = tiles.index  # the model may lie outside a run folder
    page = replace(page, classes=index.classes, palette=index.palette, panels=shown, worst=worst)
    page = replace(page, command=_command(config), created=date.today().isoformat())
    write_report(str(config.report), page)


def _pictures(tiles: TileSet, models: dict[str, Path], worst: list[int]) -> tuple[list[Panel], list[Panel]]:
    """Return tiles spread over the test set and the worst ones; those that are both are predicted once."""
    even = spread(len(tiles), PANELS)
    chosen = list(dict.fromkeys([*even, *worst]))
    made = dict(zip(chosen, panels(tiles, models, chosen), strict=True))
    return [made[n] for n in even], [made[n] for n in worst]


def _of_one(config: EvaluateRun) -> Report:
    return report_of_run(Path(config.model[0]).parent, results=config.out)


def _of_several(config: EvaluateRun, found: dict[str, Any]) -> Report:
    """Return table, details and curves of each model; the first is what the others are compared with."""
    evaluations = [Evaluation.from_results(name, each) for name, each in found["models"].items()]
    gains = {each["model"]: each["interval"] for each in found["differences"]}
    folders = {name: Path(path).parent for name, path in zip(found["models"], config.model, strict=True)}
    curves = {name: folder / "metrics.jsonl" for name, folder in folders.items()}
    texts = {name: folder / "config.yaml" for name, folder in folders.items()}
    first = next(iter(found["models"].values()))
    return Report(
        title=f"{len(evaluations)} models on {Path(config.data).name}",
        rows=[
            replace(
                Row.from_evaluations(e.name, [e]),
                interval=e.details["interval"]["miou"],
                gain_interval=gains.get(e.name),
            )
            for e in evaluations
        ],
        facts={"test tiles": f"{first['samples']:,}", "models": str(len(evaluations))},
        evaluations=evaluations,
        runs=[RunMetrics(name, path) for name, path in curves.items() if path.is_file()],
        configs={name: path.read_text(encoding="utf-8") for name, path in texts.items() if path.is_file()},
        versions={k: str(v) for k, v in first["provenance"]["versions"].items()},
    )


def _command(config: EvaluateRun) -> str:
    """Return what repeats the page; a temperature that was fitted is in the model's card already."""
    several = len(config.model) > 1
    model = f"[{','.join(config.model)}]" if several else config.model[0]
    words = [f"model={model}", *(f"{key}={getattr(config, key)}" for key in ("data", "out", "report"))]
    return shlex.join(["python", "launch/evaluate.py", *words])
