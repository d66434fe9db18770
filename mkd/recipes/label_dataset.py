"""launch/teacher.py label: the tiles of a data set with pseudo-labels, as a data set of its own beside it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mkd.cli.log_lines import route_log_lines, say_on_stdout
from mkd.config import schema
from mkd.dataset.codec import VALID, decode_image, decode_label, image_kind
from mkd.distributed.engine import autocast
from mkd.distributed.world import find_world
from mkd.inference.windowed import probabilities
from mkd.labels import IGNORE
from mkd.loader.batch import scaled, to_unit
from mkd.loader.loader import TileSet
from mkd.model_folder import ModelCard, weights_digest
from mkd.pixel_scale import PixelScale
from mkd.recipes import factories
from mkd.semi.entropy import filter_pseudo_labels
from mkd.teacher.local import Autocast
from mkd.train.input_bands import check_kind
from shards.inputs.encode import encode_tile
from shards.inputs.fingerprint import identity, unit_fingerprint
from shards.output.build_manifest import Budget, BuildManifest
from shards.output.build_options import BuildOptions
from shards.output.builder import Unit, build
from shards.output.shard_writer import ShardWriter
from shards.progress import summarize


def label(config: schema.TeacherLabel) -> None:
    """Write the data set, or one part of it; what a stopped command has finished is kept.

    Each tile keeps key, image and KEY.json, in which "pseudo" tells score, kept share and the weights' digest. Tiles
    above ``tile_entropy``, and those of which the pixel filter leaves nothing, are left out and counted.

    Raises:
        ValueError: another data set at ``out``, images that the network does not take, or too many damaged tiles.
    """
    device = find_world(config.device).device
    model, card = factories.load_checked("model", config.model)
    model.to(device).eval().requires_grad_(False)
    tiles = TileSet(config.data, labelled=False, max_pixels=config.max_pixels)
    check_kind(f"data={config.data}", tiles.index, card.architecture.scale)
    version = weights_digest(config.model)
    limit = 1.0 if config.tile_entropy is None else config.tile_entropy
    work = _Labeller(
        model,
        partial(autocast, device),
        device,
        tiles,
        window=card.crop,
        confidence=config.confidence,
        limit=limit,
        batch=config.batch,
        version=version,
        scale=card.architecture.scale,
    )
    description, units = _plan(config, card, tiles, version)
    with route_log_lines(say_on_stdout, "shards"):
        index = build(description, units, work, BuildOptions(config.out, part=config.part)).index
    if index is not None:
        print(
            f"{config.out}: {summarize(index)} out of {len(tiles):,}; left out {index.provenance['left_out']}"
        )


def _plan(
    config: schema.TeacherLabel, card: ModelCard, tiles: TileSet, version: str
) -> tuple[BuildManifest, list[Unit]]:
    """Return what is built: a shard for each shard of the data set."""
    index, units, first = tiles.index, list[Unit](), 0
    asked = {"command": "label", "confidence": config.confidence, "tile_entropy": config.tile_entropy}
    made_of = {**asked, "batch": config.batch, "model_sha256": version}
    for number, shard in enumerate(index.shards):
        units.append(Unit(number, unit_fingerprint(made_of, {}, shard.sha256), (first, shard.samples)))
        first += shard.samples
    whole = identity({**made_of, "index_sha256": index.sha256()})
    about = {**made_of, "source": index.name, "inputs_sha256": whole}
    budget = Budget(labelled=config.max_bad)
    name = f"{index.name}-pseudo"
    return BuildManifest(name, card.classes, card.palette, about, budget, "label", "", ""), units


@dataclass(frozen=True)
class _Tile:
    """A tile before it has a label."""

    key: str
    kind: str
    image: bytes
    meta: dict[str, Any]
    pixels: NDArray[Any]
    valid: NDArray[np.bool_]


@dataclass(frozen=True)
class _Labeller:
    """Labels the tiles of one shard; a shard's batches do not depend on other shards."""

    model: nn.Module
    autocast: Autocast
    device: torch.device
    tiles: TileSet
    window: int | None
    confidence: float
    limit: float
    batch: int
    version: str
    scale: PixelScale

    def __call__(self, samples: tuple[int, int], shard: ShardWriter) -> None:
        for name in ("above_tile_entropy", "nothing_kept"):
            shard.left_out(name, 0)
        waiting: list[_Tile] = []
        for tile in self._read(range(samples[0], sum(samples)), shard):
            if waiting and (len(waiting) == self.batch or waiting[0].pixels.shape != tile.pixels.shape):
                self._add(waiting, shard)
                waiting = []
            waiting.append(tile)
        if waiting:
            self._add(waiting, shard)

    def _read(self, samples: range, shard: ShardWriter) -> Iterator[_Tile]:
        """Yield the tiles that can be read; the shard learns of the others."""
        source = self.tiles.decoder.source
        source.prefetch(samples)
        for sample in samples:
            entry = source.record(sample)
            kind = image_kind(entry.members)
            pixels = np.empty((*entry.size, self.scale.bands), self.scale.dtype)
            valid = np.full(entry.size, 255, np.uint8)
            wanted = (kind, "json", *({VALID} & set(entry.members)))
            try:
                members = {name: bytes(data) for name, data in source.read(sample, wanted).items()}
                decode_image(members[kind], kind, pixels)
                if VALID in members:
                    decode_label(members[VALID], valid)
            except ValueError as error:
                shard.quarantine(f"{self.tiles.folder}:{entry.key}", str(error), labelled=True)
                continue
            yield _Tile(entry.key, kind, members[kind], json.loads(members["json"]), pixels, valid != 0)

    def _add(self, tiles: list[_Tile], shard: ShardWriter) -> None:
        """Label tiles of one size and add those of which something is left."""
        images = torch.from_numpy(np.stack([t.pixels for t in tiles])).permute(0, 3, 1, 2).contiguous()
        valid = torch.from_numpy(np.stack([t.valid for t in tiles]))
        given = scaled(images, None if bool(valid.all()) else valid, self.scale)
        with torch.inference_mode(), self.autocast():
            found = probabilities(self.model, to_unit(given.to(self.device)), self.window)
        logits = found.log()  # of which the filter's softmax are the probabilities again
        answer = filter_pseudo_labels(logits, self.confidence, self.limit)
        labels = answer.labels.cpu().numpy()
        rows = zip(tiles, labels, answer.score.tolist(), answer.accepted.tolist(), strict=True)
        for tile, ids, score, accepted in rows:
            ids = np.where(tile.valid, ids, np.uint8(IGNORE))
            kept = float((ids != IGNORE).mean())
            if kept == 0:
                shard.left_out("nothing_kept" if accepted else "above_tile_entropy")
                continue
            meta = {k: v for k, v in tile.meta.items() if k != "labelled"}
            meta["pseudo"] = {"score": score, "kept": kept, "version": self.version}
            more: dict[str, Any] = {"bands": self.scale.bands, "dtype": self.scale.dtype, "valid": tile.valid}
            shard.add(encode_tile(tile.key, tile.image, tile.kind, ids, meta, **more))
