"""Verification of a data set: every byte is read and compared with its records and its index."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mkd.dataset.index import DatasetIndex, read_index, shard_fault
from mkd.dataset.shard_list import shard_sizes
from mkd.geo.place.footprints import OVERLAP
from mkd.image_header import MAX_PIXELS
from mkd.labels import IGNORE
from mkd.storage.folder import Folder
from shards.commands.input_notes import note_labels
from shards.process_pool import map_in_processes
from shards.progress import list_first, pluralize, progress
from shards.reading.shard_check import ShardCheck, ShardTask, check_shard
from shards.splitting.image_hash import BITS
from shards.splitting.leaks import find_leaks, read_places
from shards.splitting.near_duplicates import find_near_duplicates
from shards.splitting.neighbours import TileMap
from shards.splitting.units import group_sources, shared_ground_text

_log = logging.getLogger(__name__)


def verify(folder: str | os.PathLike[str], workers: int = 1, max_pixels: int = MAX_PIXELS) -> list[str]:
    """Read every byte of a data set and compare it with its records and its index.

    Args:
        folder: a data set, path or URL.
        workers: processes, each checking whole shards.
        max_pixels: greatest number of pixels of a tile; larger ones are problems, and not decoded.

    Returns:
        One sentence a problem; empty when all is well.

    Raises:
        ValueError: no data set there at all, or a place that does not answer.
    """
    place = Folder(folder)
    index, own = read_index(place, shards=False), place.sizes()
    known, sizes = {shard.file for shard in index.shards}, shard_sizes(place, index.shards, own)
    foreign = sorted(name for name in own if name.endswith(".tar") and name not in known)
    problems = [f"{name} is not in the index: remove it" for name in foreign if not name.startswith(".")]
    faults = {
        shard.file: shard_fault(shard.url or shard.file, shard, sizes.get(shard.file))
        for shard in index.shards
    }
    tasks = [
        ShardTask(*(place.url, shard, index.num_classes, index.bands, index.dtype, index.labels, max_pixels))
        for shard in index.shards
        if shard.file in sizes
    ]
    results = progress(map_in_processes(check_shard, tasks, workers), len(tasks), "verify", "shards")
    found_in = {found.file: found for found in results}  # in any order
    found = [found_in[shard.file] for shard in index.shards if shard.file in found_in]
    keys: set[str] = set()
    for shard in index.shards:
        problems += [faults[shard.file]] if faults[shard.file] else []
        if shard.file in found_in:
            problems += found_in[shard.file].problems + _duplicate_keys(found_in[shard.file], keys)
    if not problems:  # else these follow from them
        problems += _total_problems(index, found)
    note_labels(index)
    return problems + _size_problems(found)


def compare_ground(
    folder: str | os.PathLike[str], against: Sequence[str], workers: int = 1, max_pixels: int = MAX_PIXELS
) -> list[str]:
    """Compare a data set with others that must be of other ground, such as a test set with training sets.

    Args:
        folder: the data set, path or URL.
        against: the others.
        workers: processes that compare pictures.
        max_pixels: greatest number of pixels of a tile.

    Returns:
        One sentence for each of the others that shares ground, or has tiles that look the same.

    Raises:
        ValueError: no data set there, or a damaged tile.
    """
    own, index = Folder(folder), read_index(folder)
    places, problems = read_places(own, index.shards), []
    for other in against:
        there, others = Folder(other), read_index(other).shards
        leaks = find_leaks(places, read_places(there, others))
        _log.info("%s: tiles touching a tile of %s: %s", folder, other, leaks.text())
        if leaks.touching:
            problems.append(
                f"{pluralize(len(leaks.touching), 'tile')} touch tiles of {other}, such as {leaks.touching[0]}: "
                "split by place again"
            )
        shards = {"here": (own, index.shards), other: (there, others)}
        found = find_near_duplicates(shards, workers, max_pixels)
        if found.pairs:
            bits, one, twin = found.pairs[0]
            problems.append(
                f"{pluralize(found.counts['here', other], 'tile')} look like tiles of {other}, such as {one.key} like "
                f"{twin.key} ({bits} of {BITS} bits differ): look at both, and leave one out"
            )
    return problems


def shared_ground(folder: str | os.PathLike[str]) -> str:
    """Say which sources of a data set lie on the same ground; "" when none do."""
    tiles = TileMap(read_places(Folder(folder), read_index(folder).shards))
    return shared_ground_text(tiles.source_names, group_sources(tiles, OVERLAP))


def _duplicate_keys(found: ShardCheck, keys: set[str]) -> list[str]:
    """Report keys that earlier shards have; note those of this shard."""
    twice = []
    for key in found.keys:
        if key in keys:
            twice.append(key)
        keys.add(key)
    return [f"{found.file}: keys {list_first(twice)} occur a second time"] if twice else []


def _size_problems(found: Sequence[ShardCheck]) -> list[str]:
    """Report tiles of another size than most of the set's: no batch can hold both."""
    sizes = sum((shard.sizes for shard in found), Counter[tuple[int, int]]())
    (usual, number), total = (sizes.most_common(1) or [((0, 0), 0)])[0], sizes.total()
    if 2 * number <= total:  # pictures of any size, which are read one by one
        return []
    return [
        f"{shard.file}, {shard.first[size]}: {pluralize(tiles, 'tile')} of {size[0]} x {size[1]} pixels, {number:,} of "
        f"the set's {total:,} tiles are {usual[0]} x {usual[1]} (height x width): make all of one size, or read them "
        "with batch=1"
        for shard in found
        for size, tiles in sorted(shard.sizes.items())
        if size != usual
    ]


def _total_problems(index: DatasetIndex, found: Sequence[ShardCheck]) -> list[str]:
    counts = sum((shard.counts for shard in found), np.zeros(256, np.int64))
    seen = [size for shard in found for size in shard.sizes]
    largest = tuple(max((size[axis] for size in seen), default=0) for axis in (0, 1))
    by_class = tuple(int(count) for count in counts[: index.num_classes])
    problems = []
    if by_class != index.histogram:
        problems.append(
            f"pixels a class are {list(by_class)}, the index says {list(index.histogram)}: pack it again"
        )
    if int(counts[IGNORE]) != index.ignored_pixels:
        problems.append(f"ignored pixels are {int(counts[IGNORE])}, the index says {index.ignored_pixels}")
    if largest != index.largest:
        problems.append(f"the greatest height and width are {largest}, the index says {index.largest}")
    return problems
