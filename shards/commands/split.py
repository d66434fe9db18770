"""Splitting a data set by spatial block or by source, and few-shot subsets; never by random tile."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from mkd.dataset.index import INDEX_NAME, DatasetIndex, ShardInfo, read_index
from mkd.storage.folder import Folder
from shards.inputs.encode import EncodedTile
from shards.inputs.fingerprint import holds_dataset, identity
from shards.output.dataset_writer import DatasetWriter
from shards.progress import pluralize, progress, summarize
from shards.reading.shard_reader import read_metas, read_tiles
from shards.splitting.assignment import PARTS, SplitOptions, plan_parts, read_places
from shards.splitting.blocks import Parts
from shards.splitting.neighbours import place_of, touching

_log = logging.getLogger(__name__)


def split(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: SplitOptions,
    shard_size: int = 256,
) -> dict[str, Any]:
    """Write parts of a data set: OUT/train, val, test by place, OUT/labelled and unlabelled for few shots.

    Args:
        source: a data set, path or URL.
        out: folder for the parts, path or URL.
        options: how to split, and how many training tiles keep their labels.
        shard_size: tiles a shard, >= 1.

    Returns:
        {part: folder, ...} with "dropped" (tiles a reason), "touching" (test tiles touching a training tile
        in what was written; None = unknown), "absent" (classes not in OUT/labelled), "done_before".

    Raises:
        ValueError: too few blocks or labels, tiles without a place, or a part that is left empty.
        OSError: a place that cannot be written.
    """
    index = read_index(source)
    parts = plan_parts(read_places(source, index), options)
    # Options and the source's index identify each part.
    by, fractions = options.by, list(options.fractions)
    asked: dict[str, Any] = {"command": "split", "by": by, "seed": options.seed, "labelled": options.labelled}
    asked |= {"block": options.block if by == "block" else None, "fractions": fractions if by else None}
    inputs = identity({**asked, "shard_size": shard_size, "index": index.sha256()})
    # Write the parts, unless all of them exist.
    folders = {part: Folder(out).child(part) for part in parts.keys}
    existing = [holds_dataset(folder, inputs) for folder in folders.values()]
    done = all(existing)
    if done:
        written = {part: read_index(folder) for part, folder in folders.items()}
        _log.info("already split: %s (%s)", out, ", ".join(folders))
    else:
        origin: dict[str, Any] = {"source": index.name, "source_index_sha256": index.sha256()}
        origin |= {"source_provenance": index.provenance, "dropped": parts.dropped}
        written = _write_parts(
            source, folders, parts, {**asked, **origin, "inputs_sha256": inputs}, shard_size
        )
        _log_parts(parts, written)
    # Report.
    report: dict[str, Any] = {part: str(folder) for part, folder in folders.items()}
    report |= {"dropped": parts.dropped, "touching": _leak_count(written), "done_before": done}
    return report | {"absent": _absent_classes(written.get("labelled"))}


def unlabelled_tile(tile: EncodedTile) -> EncodedTile:
    """Return the tile without its label."""
    return replace(tile, label=None, counts=None)


def count_leaks(shards: Mapping[str, tuple[Folder, Sequence[ShardInfo]]]) -> int | None:
    """Count, in shards as written, the test tiles that touch a training tile.

    Args:
        shards: folder and shards of "train" and of "test".

    Returns:
        Number of test tiles which share pixels, an edge or a corner with a training tile; None where tiles
        have no window, so that nobody can know.
    """
    train = [place_of(key, meta) for key, meta, _ in read_metas(*shards["train"])]
    test = [place_of(key, meta) for key, meta, _ in read_metas(*shards["test"])]
    known = all(place.window is not None for place in [*train, *test])
    return len(touching(test, train)) if known else None


def _write_parts(
    source: str | os.PathLike[str],
    folders: Mapping[str, Folder],
    parts: Parts,
    provenance: Mapping[str, Any],
    shard_size: int,
) -> dict[str, DatasetIndex]:
    """Stream the data set once, each tile into its parts; the leak check reads what came to the disk."""
    index = read_index(source)
    parts_of: dict[str, list[str]] = {}  # by key; a few-shot tile is in train, too
    for part, keys in parts.keys.items():
        for key in keys:
            parts_of.setdefault(key, []).append(part)
    with ExitStack() as stack:
        writers: dict[str, DatasetWriter] = {}
        for part, folder in folders.items():
            # An index there is of the same inputs, as holds_dataset found: this part may be written again.
            name, overwrite = f"{index.name}-{part}", folder.exists(INDEX_NAME)
            writer = DatasetWriter(folder, name, index.classes, index.palette, shard_size, overwrite)
            writers[part] = stack.enter_context(writer)
        for tile in progress(read_tiles(source), index.samples, "split"):
            for part in parts_of.get(tile.key, ()):
                writers[part].add(unlabelled_tile(tile) if part == "unlabelled" else tile)
        # The index comes last: it tells how many test tiles touch a training tile, read back from the shards.
        shards = {part: (folders[part], writer.commit()) for part, writer in writers.items()}
        leaks = count_leaks(shards) if {"train", "test"} <= set(shards) else None
        return {
            part: writer.finish(
                {**provenance, "part": part, "test_tiles_touching_training": leaks}, index.statistics
            )
            for part, writer in writers.items()
        }


def _log_parts(parts: Parts, written: Mapping[str, DatasetIndex]) -> None:
    # What each part holds.
    split_tiles = sum(written[part].samples for part in PARTS if part in written)
    for part, index in written.items():
        share = f", {index.samples / split_tiles:.1%} of the split" if part in PARTS else ""
        _log.info("%s: %s%s", part, summarize(index), share)
    # What is in none of them.
    for reason, tiles in parts.dropped.items():
        _log.info("left out, %s: %s", reason, pluralize(tiles, "tile"))
    lost = sum(parts.dropped.values())
    if 10 * lost > split_tiles:
        share = f"{lost / (lost + split_tiles):.0%}"
        _log.warning("note: %s of the tiles are left out; a larger --block loses fewer", share)
    # What leaks.
    if {"train", "test"} <= set(written):
        leaks = _leak_count(written)
        text = "unknown, tiles without window" if leaks is None else leaks
        _log.info("test tiles touching a training tile: %s", text)


def _leak_count(written: Mapping[str, DatasetIndex]) -> int | None:
    leaks: int | None = next(iter(written.values())).provenance["test_tiles_touching_training"]
    return leaks


def _absent_classes(index: DatasetIndex | None) -> list[str]:
    """Name the classes without a pixel in the few-shot set."""
    if index is None:
        return []
    absent = [name for name, pixels in zip(index.classes, index.histogram, strict=True) if not pixels]
    if absent:
        _log.info("classes absent among the %d labelled tiles: %s", index.labelled, ", ".join(absent))
    return absent
