"""Reading a whole data set again, to find what is damaged or contradicts the index."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from mkd.data.index import DatasetIndex, read_index
from mkd.data.storage import Folder
from shards.check import ShardTask, check_shard
from shards.classfile import IGNORE
from shards.report import progress, some
from shards.workers import each


def verify(folder: str | os.PathLike[str], workers: int = 1) -> list[str]:
    """Read every byte of a data set and compare it with its records and its index.

    Args:
        folder: a data set, path or URL.
        workers: processes, each checking whole shards.

    Returns:
        One sentence a problem; empty when all is well.

    Raises:
        ValueError: no data set there at all, a shard that is missing or of another size (`read_index`), or a place
            that does not answer.
    """
    place = Folder(folder)
    index = read_index(place)
    known = {shard.file for shard in index.shards}
    foreign = sorted(name for name in place.sizes() if name.endswith(".tar") and name not in known)
    problems = [f"{name} is not in the index: remove it" for name in foreign if not name.startswith(".")]
    tasks = [
        ShardTask(place.url, shard, index.num_classes, index.bands, index.dtype) for shard in index.shards
    ]
    results = progress(each(check_shard, tasks, workers), len(tasks), "verify")
    found_in = {found.file: found for found in results}  # in any order
    keys: set[str] = set()
    counts, largest = np.zeros(256, np.int64), (0, 0)
    for shard in index.shards:
        found = found_in[shard.file]
        problems += found.problems
        twice = []
        for key in found.keys:
            if key in keys:
                twice.append(key)
            keys.add(key)
        if twice:
            problems.append(f"{shard.file}: keys {some(twice)} occur a second time")
        counts += found.counts
        largest = (max(largest[0], found.largest[0]), max(largest[1], found.largest[1]))
    if not problems:  # else these follow from them
        problems += _sum_problems(index, counts, largest)
    return problems


def _sum_problems(index: DatasetIndex, counts: NDArray[np.int64], largest: tuple[int, int]) -> list[str]:
    found = tuple(int(count) for count in counts[: index.num_classes])
    problems = []
    if found != index.histogram:
        problems.append(
            f"pixels a class are {list(found)}, the index says {list(index.histogram)}: pack it again"
        )
    if int(counts[IGNORE]) != index.ignored_pixels:
        problems.append(f"ignored pixels are {int(counts[IGNORE])}, the index says {index.ignored_pixels}")
    if largest != index.largest:
        problems.append(f"the greatest height and width are {largest}, the index says {index.largest}")
    return problems
