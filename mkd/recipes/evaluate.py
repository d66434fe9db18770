"""launch/evaluate.py: model folder + labelled data set -> results.json."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from mkd.atomic import check_writable, write_text
from mkd.config.constraints import output_file
from mkd.config.schema import EvaluateRun
from mkd.distributed.rank0 import run_on_rank0
from mkd.distributed.world import find_world
from mkd.inference.evaluation_details import EvaluationDetails
from mkd.inference.evaluator import confusion, results
from mkd.loader.loader import TileSet
from mkd.model_folder import weights_digest
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
    """Evaluate a model on a labelled data set; write and return results.json, for which see `place_outputs`.

    Several ranks share the tiles, and rank 0 writes.

    Raises:
        ValueError: classes of model and data differ, or the data set is not labelled.
    """
    world = find_world(config.device)
    model, card = factories.load_checked("model", config.model)
    index = factories.check_classes("data", config.data, card.classes, f"model={config.model}")
    scale = card.architecture.scale
    check_kind(f"data={config.data}", index, scale)
    tiles = TileSet(config.data, labelled=True, max_pixels=config.max_pixels)
    check_same_index(world, "data", config.data, tiles.index)
    details = EvaluationDetails(card.classes, len(tiles), world.device)
    matrix = confusion(model, tiles, config.batch, world, window=card.crop, scale=scale, watch=details.update)
    details.reduce(world)
    provenance = {
        "model": config.model,
        "model_sha256": weights_digest(config.model),
        "data": config.data,
        "data_index_sha256": index.sha256(),
        "commit": commit(),
        "versions": versions(),
    }
    found = {**results(matrix, card.classes, provenance), "samples": index.samples, **details.to_json(tiles)}
    run_on_rank0(world, lambda: write_text(Path(config.out), json.dumps(found, indent=1) + "\n"))
    return found


def summary(found: dict[str, Any]) -> str:
    """Return results as a few lines of text."""
    lines = [f"{name:>16}  {'absent' if v is None else f'{v:.4f}'}" for name, v in found["iou"].items()]
    if found["absent"]:
        lines.append(f"absent from the test set, left out of the mean: {', '.join(found['absent'])}")
    one_class = len(found["iou"]) - len(found["absent"]) < 2
    miou = "nan (one class only)" if one_class else f"{found['miou']:.4f}"
    lines.append(f"{'mIoU':>16}  {miou}   pixel accuracy {found['pixel_accuracy']:.4f}")
    return "\n".join(lines)
