"""launch/predict_map.py: model folder + rasters -> a land-cover map of each, and what is made of it."""

import logging
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mkd.cli.log_lines import route_log_lines, say_on_stdout
from mkd.config.schema import PredictRun
from mkd.distributed.rank0 import run_on_rank0
from mkd.distributed.world import World, find_world
from mkd.geo.class_map import Legend
from mkd.geo.raster import RasterReader
from mkd.inference.band_match import bands_for, check_scene
from mkd.inference.band_predictor import BandPredictor, PredictionGrid, WindowNetwork
from mkd.inference.map_writer import MapSummary, check_map
from mkd.inference.row_parts import RowParts
from mkd.inference.windowed import UNKNOWN_CROP, default_overlap
from mkd.model_folder import ModelCard, read_card, weights_digest
from mkd.models.segmentation import SegmentationNetwork
from mkd.recipes import factories
from mkd.recipes.mapping.map_inputs import (
    MADE_OF,
    content_of,
    is_whole,
    newest_change,
    open_scene,
    plan_maps,
    scene_files,
)
from mkd.recipes.mapping.map_products import plan_products, write_products
from mkd.recipes.mapping.map_rows import RowPlan, predict_rows
from mkd.recipes.run_folder import commit
from shards.inputs.fingerprint import identity

log = logging.getLogger(__name__)

_WINDOW = 512  # pixels: side of a window of which one at a time keeps a CPU busy

# Keys that a map's pixels do not depend on.
_ELSEWHERE = (
    *("model", "input", "output", "batch", "device", "trust_vrt"),
    *("polygons", "min_area", "areas", "preview"),
)


def predict(config: PredictRun) -> str:
    """Write the maps that are not there yet, and what is made of each; return a line about each.

    Each map appears when it is whole; until then its finished rows lie beside it, and a killed job goes on with those
    that are missing. Several ranks share the rasters, each by itself; where there are fewer rasters than ranks, they
    share the rows of each, and rank 0 writes the map.

    Raises:
        ValueError: an input or output that does not do; nothing has been predicted then.
    """
    world = find_world(config.device)
    # Rank 0 looks at all inputs before any is predicted; the others wait for its list.
    pairs: list[list[str]] = run_on_rank0(world, lambda: _plan(config))
    share_rows = len(pairs) < world.ranks
    model, card = factories.load_checked("model", config.model)
    makers = world if share_rows else World.single(world.device)
    task = _Task(config, model, card, makers, weights_digest(config.model), len(pairs) > 1)
    with route_log_lines(say_on_stdout, __name__), route_log_lines(say_on_stdout, "mkd.inference.band_match"):
        plans: Iterable[list[Any]] = (_plan_rows(task, *pair) for pair in pairs[world.rank :: world.ranks])
        if share_rows:
            plans = run_on_rank0(world, lambda: [_plan_rows(task, *pair) for pair in pairs])
        # From here on no rank waits for another but rank 0, for files.
        lines = [line for plan in plans if (line := _make_map(task, RowPlan(*plan))) is not None]
    if len(pairs) == 1:
        return lines[0] if lines else ""
    shared = world.ranks > 1 and not share_rows
    return f"{len(lines)} maps in {Path(pairs[0][1]).parent}" + (" by rank 0" if shared else "")


@dataclass(frozen=True)
class _Task:
    """What is the same for all rasters of a command; `world`: the ranks that make a map together."""

    config: PredictRun
    model: SegmentationNetwork
    card: ModelCard
    world: World
    weights: str
    several: bool

    def made_of(self, source: str, reader: RasterReader) -> str:
        """Return the hash of what a map is made of."""
        made_by = {"model_sha256": self.weights, **_settings(self.config, self.card)}
        if (start := _grid(self).start(reader.info)) != (0, 0):  # else a map is that of earlier versions
            made_by["first_window"] = start
        return identity(made_by | {"input": content_of(source, reader)})

    def legend(self, made_of: str) -> Legend:
        """Return names, colours and tags of a map."""
        return Legend(self.card.classes, self.card.palette, _tags(self.config, made_of))

    def finish(self, reader: RasterReader, output: str, line: str) -> str:
        """Write the products of a map that is whole; return its line with theirs, logged where there are several."""
        legend = Legend(self.card.classes, self.card.palette)
        line = "\n".join([line, *write_products(self.config, reader, output, legend, self.several)])
        if self.several:
            log.info(line)
        return line


def _plan(config: PredictRun) -> list[list[str]]:
    """Return path or URL of each raster with the path of its map, after a look at all inputs and outputs."""
    pairs = plan_maps(config, read_card(config.model).architecture.scale)
    plan_products(config, [output for _, output in pairs])
    return pairs


def _is_there(source: str, output: str, made_of: str, reader: RasterReader) -> bool:
    """Whether a map need not be made."""
    return is_whole(Path(output), made_of, scene_files(source, reader))


def _kept(output: str) -> str:
    return f"{output}: this map is there already, of the same model and input"


def _plan_rows(task: _Task, source: str, output: str) -> list[Any]:
    """Return the fields of the `RowPlan` of one raster, as JSON has them; remove rows that are of no use."""
    with open_scene(source, task.config, task.card.architecture.scale) as reader:
        grid = _grid(task)
        check_map(task.card.palette, reader, Path(output), grid)
        made_of = task.made_of(source, reader)
        parts = RowParts(Path(output), made_of)
        if _is_there(source, output, made_of, reader):
            parts.remove()
            return [source, output, made_of, None]
        rows = grid.first_rows(reader.info)
        newest = newest_change(scene_files(source, reader))
        return [source, output, made_of, parts.prepare(rows, newest)]


def _make_map(task: _Task, plan: RowPlan) -> str | None:
    """Make this rank's part of one map; return the map's line on rank 0, None elsewhere."""
    if plan.missing is None and not task.world.is_main:
        return None
    config, card, world = task.config, task.card, task.world
    scale = card.architecture.scale
    with open_scene(plan.source, config, scale) as reader:
        if plan.missing is None:
            return task.finish(reader, plan.output, _kept(plan.output))
        choice = (bands_for if world.is_main else check_scene)(reader, config.bands, scale)
        given = (task.model, len(card.classes), scale, world.device)
        network = WindowNetwork(*given, tta=config.tta, temperature=card.temperature)
        predictor = BandPredictor(network, reader, choice, _grid(task))
        title = Path(plan.output).name if task.several else "map"
        done = predict_rows(predictor, plan, world, task.legend(plan.made_of), title)
        return (
            None
            if done is None
            else task.finish(reader, plan.output, f"{plan.output}: {_summary(card, done)}")
        )


def _grid(task: _Task) -> PredictionGrid:
    settings = _settings(task.config, task.card)
    tile, overlap, batch = settings["tile"], settings["overlap"], task.config.batch
    return PredictionGrid(tile, overlap, usual_batch(tile, task.world.device) if batch is None else batch)


def usual_batch(tile: int, device: torch.device) -> int:
    """Return as many windows as keep a device busy: on a CPU more pixels at once leave its caches, and take longer."""
    pixels = 4 * _WINDOW**2 if device.type == "cuda" else _WINDOW**2
    return max(1, pixels // tile**2)


def _summary(card: ModelCard, done: MapSummary) -> str:
    shares = {
        c: n / max(1, sum(done.class_pixels)) for c, n in zip(card.classes, done.class_pixels, strict=True)
    }
    covers = ", ".join(f"{c} {100 * s:.1f} %" for c, s in shares.items())
    sure = "no data" if done.mean_confidence is None else f"mean confidence {done.mean_confidence:.2f}"
    return f"{done.width} x {done.height} pixels; {covers}; {sure}"


def _settings(config: PredictRun, card: ModelCard) -> dict[str, Any]:
    """Return the keys that a map depends on beside model and input, with what stands for null."""
    tile = config.tile if config.tile is not None else card.crop or UNKNOWN_CROP
    overlap = default_overlap(tile) if config.overlap is None else config.overlap
    keys = {k: v for k, v in asdict(config).items() if k not in _ELSEWHERE}
    if config.bands is None:  # so that maps of earlier versions are the same
        del keys["bands"]
    if config.tta == "none":
        del keys["tta"]
    if card.temperature != 1.0:
        keys["temperature"] = card.temperature
    return keys | {"tile": tile, "overlap": overlap}


def _tags(config: PredictRun, made_of: str) -> dict[str, str]:
    """Return what the map says of its origin."""
    return {
        MADE_OF: made_of,
        "MODEL": config.model,
        "TIFFTAG_SOFTWARE": f"mkd {commit() or 'of unknown commit'}",
        "TIFFTAG_DATETIME": time.strftime("%Y:%m:%d %H:%M:%S"),
    }
