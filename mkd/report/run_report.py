"""A run folder as a report; the page lists what the folder lacks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mkd.documents import parse_yaml, sequence, text, whole
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
    classes, palette = _legend(folder / "model" / "model.yaml")
    metrics, config = folder / "metrics.jsonl", folder / "config.yaml"
    return Report(
        title=f"Run {folder.name}",
        classes=classes,
        palette=palette,
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
    try:
        # In results.json a mean over no class at all is NaN, so JSON is read as it comes.
        content = json.loads(path.read_bytes()) if path.suffix == ".json" else parse_yaml(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, expected names and values: write it again"
        )
    return content


def _legend(path: Path) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Return class names and colours of a model card; none where there is no card."""
    content = _load(path)
    try:
        classes = tuple(text(name, "a class") for name in sequence(content.get("classes", []), "classes"))
        colours = [sequence(each, "a colour", 3) for each in sequence(content.get("palette", []), "palette")]
        palette = [tuple(whole(part, "a colour", 0, 255) for part in colour) for colour in colours]
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    return classes, tuple((red, green, blue) for red, green, blue in palette)
