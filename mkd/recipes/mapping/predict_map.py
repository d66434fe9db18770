"""launch/predict_map.py: model folder + rasters -> a land-cover map of each, and what is made of it."""

import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mkd.cli.log_lines import route_log_lines, say_on_stdout
from mkd.config.schema import PredictRun
from mkd.distributed.rank0 import run_on_rank0
from mkd.distributed.world import World, find_world
from mkd.geo.class_map import Legend
from mkd.geo.raster import RasterReader
from mkd.inference.map_writer import MapSummary, predict_map
from mkd.inference.windowed import UNKNOWN_CROP, default_overlap
from mkd.model_folder import ModelCard, read_card, weights_digest
from mkd.models.segmentation import SegmentationNetwork
from mkd.recipes import factories
from mkd.recipes.mapping.map_inputs import MADE_OF, content_of, is_whole, open_scene, plan_maps
from mkd.recipes.mapping.map_products import plan_products, write_products
from mkd.recipes.run_folder import commit
from shards.inputs.fingerprint import identity

log = logging.getLogger(__name__)

# Keys that a map's pixels do not depend on.
_ELSEWHERE = (
    *("model", "input", "output", "batch", "device", "trust_vrt"),
    *("polygons", "min_area", "areas", "preview"),
)


def predict(config: PredictRun) -> str:
    """Write the maps that are not there yet, and what is made of each; return a line about each.

    Each map appears when it is whole. Several ranks share the rasters, each by itself.

    Raises:
        ValueError: an input or output that does not do; nothing has been predicted then.
    """
    world = find_world(config.device)
    # Rank 0 looks at all inputs before any is predicted; the others wait for its list.
    pairs: list[list[str]] = run_on_rank0(world, lambda: _plan(config))
    model, card = factories.load_checked("model", config.model)
    made_by = {"model_sha256": weights_digest(config.model), **_settings(config, card)}
    legend = Legend(card.classes, card.palette)
    lines = list[str]()
    with route_log_lines(say_on_stdout, __name__), route_log_lines(say_on_stdout, "mkd.inference.band_match"):
        for source, output in pairs[world.rank :: world.ranks]:
            with open_scene(source, config, card.architecture.scale) as reader:
                made_of = identity(made_by | {"input": content_of(source, reader)})
                if is_whole(Path(output), made_of, () if "://" in source else reader.info.files):
                    lines.append(f"{output}: this map is there already, of the same model and input")
                else:
                    title = Path(output).name if len(pairs) > 1 else "map"
                    done = _predict(
                        config, model, card, world, reader, output, tags=_tags(config, made_of), title=title
                    )
                    lines.append(f"{output}: {_summary(card, done)}")
                lines[-1] = "\n".join(
                    [lines[-1], *write_products(config, reader, output, legend, len(pairs) > 1)]
                )
            if len(pairs) > 1:
                log.info(lines[-1])
    if len(pairs) == 1:
        return lines[0] if lines else f"{pairs[0][1]}: made by rank 0"
    return f"{len(lines)} maps in {Path(pairs[0][1]).parent}" + ("" if world.ranks == 1 else " by rank 0")


def _plan(config: PredictRun) -> list[list[str]]:
    """Return path or URL of each raster with the path of its map, after a look at all inputs and outputs."""
    pairs = plan_maps(config, read_card(config.model).architecture.scale)
    plan_products(config, [output for _, output in pairs])
    return pairs


def _predict(
    config: PredictRun,
    model: SegmentationNetwork,
    card: ModelCard,
    world: World,
    reader: RasterReader,
    output: str,
    *,
    tags: dict[str, str],
    title: str,
) -> MapSummary:
    settings = _settings(config, card)
    return predict_map(
        model,
        card.palette,
        reader,
        output,
        tile=settings["tile"],
        overlap=settings["overlap"],
        batch=config.batch,
        bands=config.bands,
        scale=card.architecture.scale,
        tta=config.tta,
        names=card.classes,
        device=world.device,
        autocast=world.device.type == "cuda",
        tags=tags,
        title=title,
    )


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
    return keys | {"tile": tile, "overlap": overlap}


def _tags(config: PredictRun, made_of: str) -> dict[str, str]:
    """Return what the map says of its origin."""
    return {
        MADE_OF: made_of,
        "MODEL": config.model,
        "TIFFTAG_SOFTWARE": f"mkd {commit() or 'of unknown commit'}",
        "TIFFTAG_DATETIME": time.strftime("%Y:%m:%d %H:%M:%S"),
    }
