"""Splitting a data set by spatial block or by source, and few-shot subsets; never by random tile."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from mkd.dataset.index import INDEX_NAME, DatasetIndex, read_index
from mkd.image_header import MAX_PIXELS
from mkd.storage.folder import Folder
from shards.inputs.encode import EncodedTile
from shards.inputs.fingerprint import holds_dataset, identity
from shards.output.dataset_writer import DatasetWriter
from shards.progress import pluralize, progress, summarize
from shards.reading.shard_reader import read_tiles
from shards.splitting.assignment import PARTS, SplitOptions, plan_parts, read_tile_places
from shards.splitting.blocks import Parts
from shards.splitting.leaks import Leaks, find_leaks, read_places
from shards.splitting.near_duplicates import PICTURE, Shards, draw_pairs, find_near_duplicates
from shards.splitting.stratified import read_classes

_log = logging.getLogger(__name__)


def split(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: SplitOptions,
    shard_size: int = 256,
    workers: int = 1,
    max_pixels: int = MAX_PIXELS,
) -> dict[str, Any]:
    """Write parts of a data set: OUT/train, val, test by place, OUT/labelled and unlabelled for few shots.

    Args:
        source: a data set, path or URL.
        out: folder for the parts, path or URL.
        options: how to split, and how many training tiles keep their labels.
        shard_size: tiles a shard, >= 1.
        workers: processes that compare pictures, where nothing places the tiles.
        max_pixels: greatest number of pixels of a tile that is decoded, to compare it or to see its classes.

    Returns:
        {part: folder, ...} with "dropped" (tiles a reason), "touching" (test tiles touching a training tile
        in what was written; None = unknown), "near_duplicates" (test tiles that look like a training tile; None = not
        looked for), "absent" (classes not in OUT/labelled), "done_before".

    Raises:
        ValueError: too few blocks or labels, tiles without a place, or a part that is left empty.
        OSError: a place that cannot be written.
    """
    index = read_index(source)
    held = read_classes(Folder(source), index, max_pixels) if options.stratify else {}
    parts = plan_parts(read_tile_places(source, index), options, held)
    # Options and the source's index identify each part.
    by, fractions = options.by, list(options.fractions)
    asked: dict[str, Any] = {"command": "split", "by": by, "seed": options.seed, "labelled": options.labelled}
    asked |= {"block": options.block if by == "block" else None, "fractions": fractions if by else None}
    later = {"stratify": options.stratify or None, "unlabelled": options.unlabelled}
    asked |= {key: value for key, value in later.items() if value is not None}  # older parts do not have them
    inputs = identity({**asked, "shard_size": shard_size, "index": index.sha256()})
    # Write the parts, unless all of them exist.
    folders = {part: Folder(out).child(part) for part in parts.keys}
    existing = [holds_dataset(folder, inputs) for folder in folders.values()]
    done = all(existing)
    if done:
        written = {part: read_index(folder) for part, folder in folders.items()}
        _log.info("already split: %s (%s)", out, ", ".join(folders))
        leaks = _check_earlier(folders, written)
    else:
        origin: dict[str, Any] = {"source": index.name, "source_index_sha256": index.sha256()}
        origin |= {"source_provenance": index.provenance, "dropped": parts.dropped}
        provenance = {**asked, **origin, "inputs_sha256": inputs}
        compare = _Comparer(Folder(out), workers, max_pixels)
        written, leaks = _write_parts(source, compare, parts, provenance, shard_size)
        _log_parts(parts, written)
        _log_leaks(leaks, written, Folder(out))
    # Report.
    near = _provenance(written).get("near_duplicates")
    report: dict[str, Any] = {part: str(folder) for part, folder in folders.items()}
    report |= {"dropped": parts.dropped, "touching": leaks and leaks.number, "done_before": done}
    report |= {"near_duplicates": near and near.get("test like train")}
    return report | {"absent": _absent_classes(written.get("labelled"))}


def unlabelled_tile(tile: EncodedTile) -> EncodedTile:
    """Return the tile without its label."""
    return replace(tile, label=None, counts=None)


@dataclass(frozen=True)
class _Comparer:
    """Looks for near-duplicates among train, val and test; draws the nearest pairs beside them, in `out`."""

    out: Folder
    workers: int
    max_pixels: int

    def __call__(self, shards: Shards) -> dict[str, int]:
        strict_first = {part: shards[part] for part in reversed(PARTS) if part in shards}
        found = find_near_duplicates(strict_first, self.workers, self.max_pixels)
        if found.pairs:
            self.out.write(PICTURE, draw_pairs(strict_first, found, self.max_pixels))
        return {**{f"{a} like {b}": count for (a, b), count in found.counts.items()}, "too flat": found.flat}


def _write_parts(
    source: str | os.PathLike[str],
    compare: _Comparer,
    parts: Parts,
    provenance: Mapping[str, Any],
    shard_size: int,
) -> tuple[dict[str, DatasetIndex], Leaks | None]:
    """Stream the data set once, each tile into its parts; the leak check reads what came to the disk."""
    index = read_index(source)
    folders = {part: compare.out.child(part) for part in parts.keys}
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
        for tile in progress(read_tiles(source), index.samples, "split", "tiles"):
            for part in parts_of.get(tile.key, ()):
                writers[part].add(unlabelled_tile(tile) if part == "unlabelled" else tile)
        # The index comes last: it tells what leaks, read back from the shards.
        shards = {part: (folders[part], writer.commit()) for part, writer in writers.items()}
        leaks, unknown = _count_leaks(shards)
        told: dict[str, Any] = {"test_tiles_touching_training": leaks and leaks.number}
        if unknown:
            near = compare(shards)
            told |= {
                "test_tiles_of_unknown_contact": len(leaks.unknown) if leaks else 0,
                "near_duplicates": near,
            }
        written = {
            part: writer.finish({**provenance, "part": part, **told}, index.statistics)
            for part, writer in writers.items()
        }
    return written, leaks


def _count_leaks(shards: Shards) -> tuple[Leaks | None, bool]:
    """Compare test and training tiles as written; also say whether the contact of any two parts is unknown."""
    places = {part: read_places(*shards[part]) for part in reversed(PARTS) if part in shards}
    found = {
        (part, other): find_leaks(places[part], places[other])
        for part, other in (("test", "train"), ("val", "train"), ("test", "val"))
        if part in places and other in places
    }
    return found.get(("test", "train")), any(leaks.unknown for leaks in found.values())


def _check_earlier(folders: Mapping[str, Folder], written: Mapping[str, DatasetIndex]) -> Leaks | None:
    """Count the leaks of a split that is there: an older version looked within each raster only."""
    leaks, _ = _count_leaks({part: (folders[part], index.shards) for part, index in written.items()})
    if leaks is not None:
        _log.info("test tiles touching a training tile: %s", leaks.text())
    if leaks is not None and leaks.touching:
        _log.warning(
            "note: an older version made this split: remove it and split again, or choose another --out"
        )
    return leaks


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


def _log_leaks(leaks: Leaks | None, written: Mapping[str, DatasetIndex], out: Folder) -> None:
    if leaks is not None:
        _log.info("test tiles touching a training tile: %s", leaks.text())
    near = dict(_provenance(written).get("near_duplicates", {}))
    if not near:
        return
    # Pictures were compared, as places do not tell all.
    flat = near.pop("too flat")
    if any(near.values()):
        counts = ", ".join(f"{pluralize(count, 'tile')} of {pair}" for pair, count in near.items() if count)
        _log.warning(
            "note: near-duplicates across parts: %s; %s shows the nearest pairs: if they are one place, give their "
            "images one source, or leave some out",
            counts.replace(" like ", " look like one of "),
            out.url_of(PICTURE),
        )
    else:
        _log.info("pictures compared: no tile looks like one of another part")
    if flat:
        _log.info("%s too flat to be compared, such as calm water", pluralize(flat, "tile"))


def _provenance(written: Mapping[str, DatasetIndex]) -> Mapping[str, Any]:
    return next(iter(written.values())).provenance


def _absent_classes(index: DatasetIndex | None) -> list[str]:
    """Name the classes without a pixel in the few-shot set."""
    if index is None:
        return []
    absent = [name for name, pixels in zip(index.classes, index.histogram, strict=True) if not pixels]
    if absent:
        _log.info("classes absent among the %d labelled tiles: %s", index.labelled, ", ".join(absent))
    return absent
