"""launch/evaluate.py: model folders + labelled data set -> results.json."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mkd.atomic import check_writable, write_text
from mkd.config.constraints import output_file
from mkd.config.schema import EvaluateRun
from mkd.distributed.rank0 import run_on_rank0
from mkd.distributed.world import World, find_world
from mkd.inference.evaluation_details import EvaluationDetails, blocks_of, worst_tiles
from mkd.inference.evaluator import Watcher, confusion, results
from mkd.loader.loader import TileSet
from mkd.metrics.confusion import ConfusionMatrix
from mkd.metrics.paired_difference import miou_difference
from mkd.metrics.temperature import TemperatureFit
from mkd.model_folder import ModelCard, set_temperature, weights_digest
from mkd.models.segmentation import SegmentationNetwork
from mkd.recipes import factories
from mkd.recipes.run_folder import commit, versions
from mkd.train.input_bands import check_kind
from mkd.train.run.run_inputs import check_same_index


def place_outputs(config: EvaluateRun) -> EvaluateRun:
    """Return the config with files for out= and report=, where folders are given, after a try to write there.

    Raises:
        ValueError: a URL, or something that is no file.
        OSError: a file that cannot be written.
    """
    out = output_file("out", config.out, "results.json")
    report = None if config.report is None else output_file("report", config.report, "report.html")
    for path in (out, report):
        if path is not None:
            check_writable(path)
    return replace(config, out=out, report=report)


def evaluate(config: EvaluateRun) -> dict[str, Any]:
    """Evaluate models on a labelled data set; write and return results.json, for which see `place_outputs`.

    Of one model it holds the results. Of several it holds those of each under "models", in "differences" mIoU and
    interval of each less the first, and the "worst_tiles" of all together. Several ranks share the tiles, and rank 0
    writes. With fit_temperature the model's card has its temperature afterwards.

    Raises:
        ValueError: classes of model and data differ, the data set is not labelled, or no temperature fits.
    """
    world = find_world(config.device)
    models = {path: _open(config, path) for path in config.model}
    tiles = TileSet(config.data, labelled=True, max_pixels=config.max_pixels)
    check_same_index(world, "data", config.data, tiles.index)
    task = _Task(config, tiles, world)
    if config.fit_temperature:
        models = {path: _fitted(task, path, *known) for path, known in models.items()}
    measured = [_measure(task, path, *known) for path, known in models.items()]
    found = measured[0].found if len(measured) == 1 else _side_by_side(config.model, measured, tiles)

    def write() -> None:
        if config.fit_temperature:
            ((path, (_, card)),) = models.items()
            set_temperature(path, card.temperature, card.provenance["temperature"])
        write_text(Path(config.out), json.dumps(found, indent=1) + "\n")

    run_on_rank0(world, write)
    return found


@dataclass(frozen=True)
class _Measured:
    """What one model's results.json says, and the sums that it was made of."""

    found: dict[str, Any]
    details: EvaluationDetails


def _open(config: EvaluateRun, path: str) -> tuple[SegmentationNetwork, ModelCard]:
    """Return the network and the card of a model folder whose classes and bands are those of the data set."""
    model, card = factories.load_checked("model", path)
    index = factories.check_classes("data", config.data, card.classes, f"model={path}")
    check_kind(f"data={config.data}", index, card.architecture.scale)
    return model, card


@dataclass(frozen=True)
class _Task:
    """What is the same for all models of a command."""

    config: EvaluateRun
    tiles: TileSet
    world: World

    def predict(self, model: SegmentationNetwork, card: ModelCard, watch: Watcher) -> ConfusionMatrix:
        """Predict all tiles with one model."""
        given, scale = (model, self.tiles, self.config.batch, self.world), card.architecture.scale
        return confusion(*given, window=card.crop, scale=scale, watch=watch)


def _fitted(
    task: _Task, path: str, model: SegmentationNetwork, card: ModelCard
) -> tuple[SegmentationNetwork, ModelCard]:
    """Return the model with a card that has the temperature of the data set; nothing is written."""
    fit, data = TemperatureFit(task.world.device), task.config.data
    task.predict(model, card, lambda _, found, labels: fit.update(found, labels))
    fit.sums = task.world.all_reduce_sum(fit.sums)
    try:
        temperature = fit.temperature()
    except ValueError as error:
        raise ValueError(f"data={data} {error}; model={path} is unchanged") from None
    about = {"data": data, "data_index_sha256": task.tiles.index.sha256(), "pixels": fit.pixels}
    return model, replace(card, temperature=temperature, provenance={**card.provenance, "temperature": about})


def _measure(task: _Task, path: str, model: SegmentationNetwork, card: ModelCard) -> _Measured:
    """Return what one model's predictions of all tiles are worth."""
    tiles = task.tiles
    details = EvaluationDetails(card.classes, len(tiles), task.world.device, card.temperature)
    matrix = task.predict(model, card, details.update)
    details.reduce(task.world)
    provenance = {
        "model": path,
        "model_sha256": weights_digest(path),
        "data": task.config.data,
        "data_index_sha256": tiles.index.sha256(),
        "commit": commit(),
        "versions": versions(),
    }
    found = results(matrix, card.classes, provenance)
    return _Measured({**found, "samples": tiles.index.samples, **details.to_json(tiles)}, details)


def _side_by_side(paths: Sequence[str], measured: Sequence[_Measured], tiles: TileSet) -> dict[str, Any]:
    """Return results.json of several models: each by its name, and each less the first."""
    names, first = distinct_names(paths), measured[0].details.matrices
    _, blocks = blocks_of(tiles)
    differences = []
    for name, each in zip(names[1:], measured[1:], strict=True):
        found = miou_difference(each.details.matrices, first, blocks)
        differences.append(
            {
                "model": name,
                "less": names[0],
                "miou": found.miou,
                "interval": [found.low, found.high],
                "shown": found.shown,
            }
        )
    together = sum((each.details.matrices for each in measured[1:]), first)
    return {
        "models": {name: each.found for name, each in zip(names, measured, strict=True)},
        "differences": differences,
        "worst_tiles": worst_tiles(together, tiles),
    }


def distinct_names(paths: Sequence[str]) -> list[str]:
    """Return paths without the folders that all of them begin or end with: runs/a/model, runs/b/model -> a, b."""
    parts = [Path(path).parts for path in paths]
    while all(len(p) > 1 for p in parts) and len({p[0] for p in parts}) == 1:
        parts = [p[1:] for p in parts]
    while all(len(p) > 1 for p in parts) and len({p[-1] for p in parts}) == 1:
        parts = [p[:-1] for p in parts]
    return ["/".join(p) for p in parts]


def summary(found: dict[str, Any]) -> str:
    """Return results as a few lines of text."""
    if "models" in found:
        return _comparison(found)
    lines = [f"{name:>16}  {'absent' if v is None else f'{v:.4f}'}" for name, v in found["iou"].items()]
    if found["absent"]:
        lines.append(f"absent from the test set, left out of the mean: {', '.join(found['absent'])}")
    one_class = len(found["iou"]) - len(found["absent"]) < 2
    miou = "nan (one class only)" if one_class else f"{found['miou']:.4f}"
    lines.append(f"{'mIoU':>16}  {miou}   pixel accuracy {found['pixel_accuracy']:.4f}")
    sure = found["calibration"]
    if sure["temperature"] != 1:
        lines.append(
            f"{'ECE':>16}  {sure['ece']:.4f} at temperature {sure['temperature']:.3g}, "
            f"{sure['ece_unscaled']:.4f} without"
        )
    return "\n".join(lines)


def _comparison(found: dict[str, Any]) -> str:
    """Return a line for each model, and for each but the first its difference."""
    width = max(map(len, found["models"]))
    lines = [
        f"{name:>{width}}  mIoU {each['miou']:.4f} ({' to '.join(map(_four, each['interval']['miou']))})"
        for name, each in found["models"].items()
    ]
    for number, each in enumerate(found["differences"], start=1):
        low, high = (f"{end:+.4f}" for end in each["interval"])
        lines[number] += f"  {each['miou']:+.4f} ({low} to {high})" + ("" if each["shown"] else ", not shown")
    return "\n".join(lines)


def _four(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
