"""launch/select_tiles.py: a data set -> the tiles to label next, as a list, a picture and a folder for a GIS."""

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mkd.atomic import check_writable, write_text
from mkd.config.schema import SelectTilesRun
from mkd.dataset.codec import LABEL
from mkd.dataset.index import DatasetIndex
from mkd.distributed.world import find_world
from mkd.loader.loader import TileSet
from mkd.model_folder import ModelCard, weights_digest
from mkd.models.segmentation import SegmentationNetwork
from mkd.recipes import factories
from mkd.recipes.data_choice.prelabels import Prelabel, predict_prelabels
from mkd.recipes.data_choice.tile_features import imagenet_network, score_tiles
from mkd.recipes.data_choice.tile_places import TileNeighbourhood, find_places, gis_obstacle
from mkd.selection.k_center import greedy_k_center
from mkd.selection.label_need import class_weights
from mkd.selection.representatives import spread_representatives, standardise
from mkd.storage.folder import Folder
from mkd.train.input_bands import check_kind
from shards.output.gis_folder import write_gis_folder
from shards.progress import pluralize
from shards.reading.contact_sheet import Card, Sheet, draw_contact_sheet
from shards.reading.tile_reader import TileImage, read_samples, stretch_to_rgb8
from shards.splitting.neighbours import place_of, touching

LIST, PICTURE, GIS = "tiles.csv", "contact_sheet.png", "gis"
POOL = 4  # with a model: the k-centre chooses among so many times n tiles


def select_tiles(config: SelectTilesRun) -> list[str]:
    """Choose the tiles and write the folder; return what to say.

    Raises:
        ValueError: a folder that is there, a data set whose tiles all have labels, or other classes or bands than the
            model's.
        OSError: a place that cannot be written.
    """
    out = Path(config.out)
    if out.exists():
        raise ValueError(f"out={out} is there already: labels may be drawn in it; name another folder")
    check_writable(out)
    tiles = TileSet(config.data, labelled=False, max_pixels=config.max_pixels)
    index, said = tiles.index, list[str]()
    metas = _candidates(config, tiles, said)
    samples = list(metas)
    network, card, weights = _network(config, index, said)
    if card is not None and not index.classes:
        index = replace(index, classes=card.classes, palette=card.palette)
    places = find_places(list(metas.values()), said)
    device = find_world(config.device).device
    window = None if card is None else card.crop
    scores = score_tiles(network, tiles, config.batch, device, weights, window)
    features, need = scores.features[samples], scores.need[samples]
    if card is None:
        chosen = spread_representatives(features, places.positions, places.neighbours, config.n, config.seed)
    else:
        chosen = _uncertain(features, need, places, config.n)
    if len(chosen) < config.n:
        said.append(f"n={config.n}: only {pluralize(len(chosen), 'tile')} that do not touch could be chosen")
    picked, scored = [samples[n] for n in chosen], need[chosen] if card is not None else None
    images = list(read_samples(Folder(config.data), index, picked, config.max_pixels))
    prelabels = None if card is None else predict_prelabels(network, card, tiles, picked, device)
    obstacle = gis_obstacle(index, [metas[n] for n in picked])
    aside = out.with_name(f".tmp-{out.name}")  # a killed command leaves no folder that looks whole
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    write_text(aside / LIST, _table(picked, [metas[n] for n in picked], scored))
    draw_contact_sheet(_sheet(index, config, len(chosen)), _cards(images, prelabels, scored)).save(
        aside / PICTURE
    )
    if not obstacle:
        polygons = None if prelabels is None else {key: p.polygons() for key, p in prelabels.items()}
        write_gis_folder(str(aside / GIS), index, images, polygons)
    aside.rename(out)
    said.append(f"no folder for a GIS: {obstacle}" if obstacle else f"to label in a GIS: {out / GIS}")
    how = "by k-means over ImageNet features" if card is None else f"that {config.model} is least sure of"
    return [f"{out}: {pluralize(len(chosen), 'tile')} of {len(samples):,}, {how}; {LIST}, {PICTURE}", *said]


def _candidates(config: SelectTilesRun, tiles: TileSet, said: list[str]) -> dict[int, dict[str, Any]]:
    """Return KEY.json of the tiles that may be chosen, by their numbers: without a label, not beside labelled ones."""
    source, name = tiles.decoder.source, tiles.index.name
    found = {n: tiles.meta(n) for n in range(len(tiles)) if LABEL not in source.record(n).members}
    if len(found) < len(tiles):
        said.append(f"{pluralize(len(tiles) - len(found), 'tile')} of {name} have labels: left out")
    if found and config.labelled is not None:
        known = TileSet(config.labelled, labelled=False, max_pixels=config.max_pixels)
        others = [known.meta(n) for n in range(len(known))]
        taken = touching(*([place_of(str(m["key"]), m) for m in metas] for metas in (found.values(), others)))
        if taken:
            said.append(
                f"{pluralize(len(taken), 'tile')} touch those of labelled={config.labelled}: left out"
            )
        found = {n: meta for n, meta in found.items() if meta["key"] not in taken}
    if not found:
        raise ValueError(
            f"data={config.data}: none of its {len(tiles)} tiles is left to choose ({'; '.join(said)}); give a data "
            "set of further unlabelled tiles"
        )
    return found


def _network(
    config: SelectTilesRun, index: DatasetIndex, said: list[str]
) -> tuple[SegmentationNetwork, ModelCard | None, Tensor | None]:
    """Return the network that sees the tiles; of a model also its card and the weights of its classes."""
    key = f"data={config.data}"
    if config.model is None:
        return imagenet_network(index, key), None, None
    network, card = factories.load_checked("model", config.model)
    check_kind(key, index, card.architecture.scale)
    if index.classes:
        factories.check_classes("data", config.data, card.classes, f"model={config.model}")
    if config.evaluation is None:
        said.append("all classes count alike, as no evaluation= is given")
        return network, card, torch.ones(len(card.classes))
    found = _read_results(config.evaluation)
    iou: dict[str, Any] = found["iou"]
    if tuple(iou) != card.classes:
        raise ValueError(
            f"evaluation={config.evaluation} has the classes {', '.join(iou)} but model={config.model} has "
            f"{', '.join(card.classes)}; give the results.json of this model"
        )
    if found["provenance"].get("model_sha256") != weights_digest(config.model):
        said.append(f"evaluation={config.evaluation} is of other weights than model={config.model}")
    weights = class_weights(list(iou.values()))
    worst = sorted(zip(weights.tolist(), card.classes, strict=True), reverse=True)[:3]
    said.append("classes that count most: " + ", ".join(f"{name} {weight:.2f}" for weight, name in worst))
    return network, card, weights


def _read_results(path: str) -> dict[str, Any]:
    """Return results.json as far as it is needed here.

    Raises:
        ValueError: no such file, or something else.
    """
    try:
        found = json.loads(Path(path).read_bytes())
        shares = [v for v in found["iou"].values() if v is not None]
        good = isinstance(found["provenance"], dict) and all(0 <= float(v) <= 1 for v in shares)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        good = False
    if not good:
        raise ValueError(
            f"evaluation={path}: no results.json with IoU by class; give the file that launch/evaluate.py wrote"
        )
    return {"iou": found["iou"], "provenance": found["provenance"]}


def _uncertain(
    features: NDArray[np.float64],
    need: NDArray[np.float64],
    places: TileNeighbourhood,
    count: int,
) -> list[int]:
    """Return tiles that differ, by greedy k-centre among the most needed; further ones by need where those touch."""
    order = np.argsort(-need, kind="stable")
    pool = order[: POOL * count]
    number = {int(tile): n for n, tile in enumerate(pool)}
    inside = [
        np.array([number[t] for t in places.neighbours[tile].tolist() if t in number], np.int64)
        for tile in pool
    ]
    chosen = [int(pool[n]) for n in greedy_k_center(standardise(features[pool]), count, inside)]
    blocked = {int(t) for tile in chosen for t in (tile, *places.neighbours[tile])}
    for tile in order[POOL * count :].tolist():
        if len(chosen) < count and tile not in blocked:
            chosen.append(tile)
            blocked |= {tile, *places.neighbours[tile].tolist()}
    return chosen


def _table(samples: list[int], metas: list[dict[str, Any]], need: NDArray[np.float64] | None) -> str:
    """Return the list of chosen tiles as CSV, in the order in which they were chosen."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["rank", "key", "sample", "source", "row", "col", "height", "width", "need"])
    for rank, (sample, meta) in enumerate(zip(samples, metas, strict=True), 1):
        window = meta.get("window") or ["", "", *(meta.get("size") or ["", ""])]
        score = "" if need is None else f"{need[rank - 1]:.4f}"
        rows.writerow([rank, meta["key"], sample, meta["source"], *window, score])
    return text.getvalue()


def _sheet(index: DatasetIndex, config: SelectTilesRun, count: int) -> Sheet:
    how = (
        f"k-means, seed {config.seed}"
        if config.model is None
        else f"model {config.model}, its predictions beside"
    )
    line = f"{pluralize(count, 'tile')} to label next, of {index.samples:,} · {how}"
    blank = [""] * index.num_classes
    return Sheet(index.name, line, index.classes, index.palette, blank, config.model is not None)


def _cards(
    images: list[TileImage], prelabels: dict[str, Prelabel] | None, need: NDArray[np.float64] | None
) -> list[Card]:
    cards = []
    for rank, tile in enumerate(images):
        label = None if prelabels is None else prelabels[tile.key].classes
        line = f"{tile.image.shape[0]} x {tile.image.shape[1]}"
        line += "" if need is None else f" · need {need[rank]:.3f}"
        cards.append(Card(f"{rank + 1}. {tile.key}", line, stretch_to_rgb8(tile.image), label))
    return cards
