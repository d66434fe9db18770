"""A run folder as a report; the page lists what the folder lacks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mkd.labels import Colour
from mkd.report.content import Evaluation, MapView, Panel, Report, RunMetrics


def report_of_run(
    folder: str | Path,
    *,
    results: str | Path | None = None,
    panels: Sequence[Panel] = (),
    map: MapView | None = None,
    command: str = "",
    created: str = "",
) -> Report:
    """Gather one run's report from its folder.

    Args:
        folder: run folder: metrics.jsonl, config.yaml, versions.json, model/model.yaml, each if there.
        results: the `results.json` of an evaluation; None takes the folder's own, if there is one.
        panels: test tiles to show.
        map: a predicted map to show.
        command: what repeats the run.
        created: date of the report, as text.

    Returns:
        The report; `write_report` makes the page.

    Raises:
        ValueError: no such folder, a named `results` that is not there, or a file that cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"no run folder at {folder}: give the folder that holds metrics.jsonl and config.yaml"
        )
    found = Path(results) if results is not None else folder / "results.json"
    if results is not None and not found.is_file():
        raise ValueError(f"no results at {found}: run evaluate first, or leave results out")
    evaluations = [Evaluation.from_results(folder.name, _load(found))] if found.is_file() else []
    model = _load(folder / "model" / "model.yaml")
    metrics, config = folder / "metrics.jsonl", folder / "config.yaml"
    return Report(
        title=f"Run {folder.name}",
        classes=tuple(model.get("classes", ())),
        palette=tuple(_colour(channels) for channels in model.get("palette", ())),
        evaluations=evaluations,
        runs=[RunMetrics(folder.name, metrics)] if metrics.is_file() else [],
        panels=panels,
        map=map,
        configs={"config.yaml": config.read_text(encoding="utf-8")} if config.is_file() else {},
        versions={name: str(version) for name, version in _load(folder / "versions.json").items()},
        command=command,
        created=created,
    )


def _load(path: Path) -> dict[str, Any]:
    """Read a JSON or YAML mapping; a file that is not there holds nothing."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, expected names and values: write it again"
        )
    return content


def _colour(channels: Sequence[int]) -> Colour:
    red, green, blue = channels
    return int(red), int(green), int(blue)
