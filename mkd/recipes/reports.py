"""The page of an experiment, from what its runs left behind."""

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from mkd.config.schema import Experiment
from mkd.dataset.index import read_index
from mkd.inference.validation_picture import spread, tile_colours
from mkd.inference.windowed import probabilities
from mkd.loader.batch import to_unit
from mkd.loader.loader import TileSet
from mkd.model_folder import load_model
from mkd.recipes.tables.run_list import needed_runs, run_folder, test_set
from mkd.report.content import Evaluation, PageFigure, Panel, Report, Row, RunMetrics
from mkd.report.drawing.thumbnails import map_view
from mkd.report.page import write_report
from mkd.report.table_files import cost_cells, speed_note
from mkd.train.input_bands import check_kind

PANELS = 6  # test tiles shown


def experiment_report(
    config: Experiment,
    results: dict[str, Any],
    path: Path,
    raster: Path | None,
    map: Path | None,
    command: str,
    *,
    shown: Sequence[Panel],
    figures: Sequence[PageFigure] = (),
) -> None:
    """Write the page of an experiment: table, figures, curves, confusion, test tiles, map, configs.

    Args:
        config: the experiment, all of whose runs have ended.
        results: what `experiment` returned.
        path: report.html to write.
        raster: orthomosaic of ``map``, or None.
        map: predicted map, or None.
        command: what repeats it.
        shown: test tiles, see `table_panels`.
        figures: over the rows.
    """
    first, (last_row, last_run) = config.seeds[0], list(config.rows.items())[-1]
    found = json.loads((run_folder(config, last_run, first) / "results.json").read_text(encoding="utf-8"))
    index = read_index(test_set(config, first))
    page = Report(
        title=config.title or config.name,
        summary=_summary(results["rows"]),
        classes=index.classes,
        palette=index.palette,
        facts=_facts(config, results, found["samples"]),
        rows=[_row(r, config) for r in results["rows"]],
        evaluations=[Evaluation.from_results(f"{last_row}, seed {first}", found)],
        runs=[
            RunMetrics(name, run_folder(config, name, seed) / "metrics.jsonl", seed)
            for name in needed_runs(config)
            for seed in config.seeds
        ],
        panels=shown,
        figures=figures,
        map=None if map is None else map_view(raster, map),
        configs={f"{name}, seed {first}": _config_text(config, name, first) for name in needed_runs(config)},
        versions={k: str(v) for k, v in found["provenance"]["versions"].items()},
        command=command,
        notes=_notes(results),
        created=date.today().isoformat(),
    )
    write_report(path, page)


def table_panels(config: Experiment) -> list[Panel]:
    """Return test tiles, spread evenly, with what each row's model of the first seed predicts."""
    first = config.seeds[0]
    tiles = TileSet(test_set(config, first), labelled=True)
    models = {title: run_folder(config, run, first) / "model" for title, run in config.rows.items()}
    return panels(tiles, models, spread(len(tiles), PANELS))


@torch.inference_mode()
def panels(tiles: TileSet, models: dict[str, Path], chosen: Sequence[int]) -> list[Panel]:
    """Return image, truth and each model's prediction for some tiles."""
    items = [tiles.tile((0, n)) for n in chosen]
    predicted: list[dict[str, Any]] = [{} for _ in items]
    for title, folder in models.items():
        model, card = load_model(folder)
        check_kind(f"data={tiles.folder}", tiles.index, card.architecture.scale)
        for n, item in enumerate(items):
            found = probabilities(model, to_unit(item.pixels(card.architecture.scale)), card.crop)
            predicted[n][title] = found.argmax(dim=1)[0].to(torch.uint8).numpy()
    return [
        Panel(tiles.meta(n)["key"], tile_colours(item, tiles), item.labels[0].numpy(), by_model)
        for n, item, by_model in zip(chosen, items, predicted, strict=True)
    ]


def _facts(config: Experiment, results: dict[str, Any], test_tiles: int) -> dict[str, str]:
    """Return the key figures under the title; time and memory only where they were measured."""
    facts = {"test tiles": str(test_tiles), "seeds": ", ".join(str(s) for s in config.seeds)}
    if "seconds" in results:
        facts |= {"time": f"{results['seconds'] / 60:.1f} min", "peak memory": f"{results['peak_gib']} GiB"}
    return facts


def _config_text(config: Experiment, run: str, seed: int) -> str:
    return (run_folder(config, run, seed) / "config.yaml").read_text(encoding="utf-8")


def _row(row: dict[str, Any], config: Experiment) -> Row:
    """Return a line of the page's table; the run folder is told where several tables share an OUT."""
    return Row(
        name=row["name"],
        miou_mean=row["miou_mean"],
        miou_std=row["miou_std"],
        seeds=tuple(int(s) for s in row["seeds"]),
        iou=row["iou"],
        paper=row.get("paper"),
        cost=cost_cells(row),
        folder=row["run"] if config.page else "",
    )


def _notes(results: dict[str, Any]) -> list[str]:
    """Return the controls, the differences, and what the speed is of, one sentence each."""
    controls = [
        f"Control, {r['name']}: mIoU {100 * r['miou_mean']:.1f} %, seeds {', '.join(r['seeds'])}."
        for r in results["controls"]
    ]
    speed = speed_note(results["rows"])
    return [
        *controls,
        *(f"{found['text']}." for found in results["differences"]),
        *(f"{found['text']}." for found in results["budget"]),
        *([speed] if speed else []),
    ]


def _summary(rows: list[dict[str, Any]]) -> str:
    steps = "; ".join(f"{r['name']} {100 * r['miou_mean']:.1f}" for r in rows)
    return f"mIoU on the test tiles, mean over seeds, in percent: {steps}."
