"""Splitting a data set by spatial block or by source, and few-shot subsets; never by random tile."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from mkd.dataset.index import INDEX_NAME, DatasetIndex, ShardInfo, read_index
from mkd.storage.folder import Folder
from shards.inputs.encode import EncodedTile
from shards.inputs.fingerprint import identity, is_done
from shards.output.dataset_writer import DatasetWriter
from shards.progress import Say, counted, describe, progress
from shards.reading.shard_reader import read_metas, read_tiles
from shards.splitting.assignment import PARTS, plan_parts, read_places
from shards.splitting.blocks import Parts
from shards.splitting.neighbours import place_of, touching


def split(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    by: str | None = None,
    block: int = 2048,
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    labelled: int | None = None,
    shard_size: int = 256,
    say: Say = print,
) -> dict[str, Any]:
    """Write parts of a data set: OUT/train, val, test by place, OUT/labelled and unlabelled for few shots.

    Args:
        source: a data set, path or URL.
        out: folder for the parts, path or URL.
        by: "block" (squares of each source raster), "source" (whole rasters or images), or None: no such
            split, all tiles count as training tiles for `labelled`.
        block: edge of a block, pixels.
        fractions: shares of train, val and test, sum 1; a part of share 0 is not made.
        seed: decides which blocks and which few shots; one seed, one result.
        labelled: number of training tiles that keep their labels in OUT/labelled; the others go to
            OUT/unlabelled without theirs. A smaller number gives a subset of a larger one.
        shard_size: tiles a shard, >= 1.
        say: takes each line of the report.

    Returns:
        {part: folder, ...} with "dropped" (tiles a reason), "touching" (test tiles touching a training tile
        in what was written; None = unknown), "absent" (classes not in OUT/labelled), "done_before".

    Raises:
        ValueError: too few blocks or labels, tiles without a place, or a part that is left empty.
        OSError: a place that cannot be written.
    """
    index = read_index(source)
    parts = plan_parts(read_places(source, index), by, block, fractions, seed, labelled, say)
    asked: dict[str, Any] = {"command": "split", "by": by, "seed": seed, "labelled": labelled}
    asked |= {"block": block if by == "block" else None, "fractions": list(fractions) if by else None}
    inputs = identity({**asked, "shard_size": shard_size, "index": index.sha256()})
    folders = {part: Folder(out).child(part) for part in parts.keys}
    done_parts = [is_done(folder, inputs) for folder in folders.values()]
    done = all(done_parts)
    if done:
        written = {part: read_index(folder) for part, folder in folders.items()}
        say(f"already split: {out} ({', '.join(folders)})")
    else:
        origin: dict[str, Any] = {"source": index.name, "source_index_sha256": index.sha256()}
        origin |= {"source_provenance": index.provenance, "dropped": parts.dropped}
        written = _write(source, folders, parts, {**asked, **origin, "inputs_sha256": inputs}, shard_size)
        _tell(parts, written, say)
    report: dict[str, Any] = {part: str(folder) for part, folder in folders.items()}
    report |= {"dropped": parts.dropped, "touching": _touching(written), "done_before": done}
    return report | {"absent": _absent(written.get("labelled"), say)}


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


def _write(
    source: str | os.PathLike[str],
    folders: Mapping[str, Folder],
    parts: Parts,
    provenance: Mapping[str, Any],
    shard_size: int,
) -> dict[str, DatasetIndex]:
    """Stream the data set once, each tile into its parts; the leak check reads what came to the disk."""
    index = read_index(source)
    where: dict[str, list[str]] = {}
    for part, keys in parts.keys.items():
        for key in keys:
            where.setdefault(key, []).append(part)
    with ExitStack() as stack:
        writers: dict[str, DatasetWriter] = {}
        for part, folder in folders.items():
            name, again = f"{index.name}-{part}", folder.exists(INDEX_NAME)  # of the same inputs, see is_done
            writer = DatasetWriter(folder, name, index.classes, index.palette, shard_size, again)
            writers[part] = stack.enter_context(writer)
        for tile in progress(read_tiles(source), index.samples, "split"):
            for part in where.get(tile.key, ()):
                writers[part].add(unlabelled_tile(tile) if part == "unlabelled" else tile)
        shards = {part: (folders[part], writer.commit()) for part, writer in writers.items()}
        leaks = count_leaks(shards) if {"train", "test"} <= set(shards) else None
        return {
            part: writer.finish({**provenance, "part": part, "test_tiles_touching_training": leaks})
            for part, writer in writers.items()
        }


def _tell(parts: Parts, written: Mapping[str, DatasetIndex], say: Say) -> None:
    split_tiles = sum(written[part].samples for part in PARTS if part in written)
    for part, index in written.items():
        share = f", {index.samples / split_tiles:.1%} of the split" if part in PARTS else ""
        say(f"{part}: {describe(index)}{share}")
    for reason, tiles in parts.dropped.items():
        say(f"left out, {reason}: {counted(tiles, 'tile')}")
    lost = sum(parts.dropped.values())
    if 10 * lost > split_tiles:
        say(
            f"note: {lost / (lost + split_tiles):.0%} of the tiles are left out; a larger --block loses fewer"
        )
    if {"train", "test"} <= set(written):
        touched = _touching(written)
        say(
            f"test tiles touching a training tile: {'unknown, tiles without window' if touched is None else touched}"
        )


def _touching(written: Mapping[str, DatasetIndex]) -> int | None:
    touched: int | None = next(iter(written.values())).provenance["test_tiles_touching_training"]
    return touched


def _absent(index: DatasetIndex | None, say: Say) -> list[str]:
    """Name the classes without a pixel in the few-shot set."""
    if index is None:
        return []
    absent = [name for name, pixels in zip(index.classes, index.histogram, strict=True) if not pixels]
    if absent:
        say(f"classes absent among the {index.labelled} labelled tiles: {', '.join(absent)}")
    return absent
