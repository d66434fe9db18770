"""Reading a whole data set again, to find what is damaged or contradicts the index."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mkd.data.index import DatasetIndex, ShardInfo, read_index
from shards.classfile import IGNORE
from shards.encode import Tile, decode
from shards.inputs import file_sha256
from shards.reader import read_groups, tile_of
from shards.report import progress


def verify(folder: str | os.PathLike[str]) -> list[str]:
    """Read every byte of a data set and compare it with the index.

    Args:
        folder: a data set.

    Returns:
        One sentence a problem; empty when all is well.

    Raises:
        ValueError: no data set there at all, or a shard that is missing or of another size (`read_index`).
    """
    index, root = read_index(folder), Path(folder)
    known = {shard.file for shard in index.shards}
    problems = [
        f"{path.name} is not in the index: remove it"
        for path in sorted(root.glob("*.tar"))
        if path.name not in known
    ]
    keys: set[str] = set()
    counts = np.zeros(256, np.int64)
    for shard in progress(index.shards, len(index.shards), "verify"):
        problems += _verify_shard(root / shard.file, shard, index, keys, counts)
    return problems + _count_problems(index, counts)


def _verify_shard(
    path: Path,
    shard: ShardInfo,
    index: DatasetIndex,
    keys: set[str],
    counts: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> list[str]:
    """Check one shard; adds its keys and pixel counts to those of the data set."""
    problems = []
    digest = file_sha256(path)
    if digest != shard.sha256:
        problems.append(
            f"{shard.file} has SHA-256 {digest[:12]}..., the index says {shard.sha256[:12]}...: copy it again"
        )
    tiles = labelled = 0
    for tile in _tiles(path, problems):
        tiles, labelled = tiles + 1, labelled + (tile.label is not None)
        if tile.key in keys:
            problems.append(f"{shard.file}: key {tile.key} occurs a second time")
        keys.add(tile.key)
        if tile.counts is not None:
            counts += tile.counts
        problems += _tile_problems(tile, shard, index)
    if (tiles, labelled) != (shard.samples, shard.labelled):
        problems.append(
            f"{shard.file} holds {tiles} readable tiles ({labelled} labelled), the index says "
            f"{shard.samples} ({shard.labelled})"
        )
    return problems


def _tiles(path: Path, problems: list[str]) -> Iterator[Tile]:
    """Give the readable tiles of a shard, and note the others."""
    try:
        for key, group in read_groups(path):
            try:
                yield tile_of(key, group, path)
            except ValueError as error:
                problems.append(str(error))
    except ValueError as error:
        problems.append(str(error))


def _tile_problems(tile: Tile, shard: ShardInfo, index: DatasetIndex) -> list[str]:
    name = f"{shard.file}, {tile.key}"
    try:
        picture = decode(tile.image, f"{name}.{tile.extension}")
    except ValueError as error:
        return [str(error)]
    problems, size = [], [picture.height, picture.width]
    if picture.mode != "RGB":
        problems.append(f"{name}: the image is of mode {picture.mode}, not RGB")
    if tile.meta.get("size") != size:
        problems.append(f"{name}: the image is {size}, its json says {tile.meta.get('size')} (height, width)")
    if tile.meta.get("labelled") is not (tile.label is not None):
        problems.append(f"{name}: its json says labelled {tile.meta.get('labelled')}, which is not so")
    if tile.label is not None and tile.counts is not None:
        label = decode(tile.label, f"{name}.label.png")
        if [label.height, label.width] != size:
            problems.append(
                f"{name}: the label is {[label.height, label.width]}, the image {size} (height, width)"
            )
        wrong = [int(value) for value in np.flatnonzero(tile.counts[:IGNORE]) if value >= index.num_classes]
        if wrong:
            problems.append(f"{name}: label ids {wrong}, allowed are 0..{index.num_classes - 1} and {IGNORE}")
    return problems


def _count_problems(index: DatasetIndex, counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[str]:
    found = tuple(int(count) for count in counts[: index.num_classes])
    problems = []
    if found != index.histogram:
        problems.append(
            f"pixels a class are {list(found)}, the index says {list(index.histogram)}: pack it again"
        )
    if int(counts[IGNORE]) != index.ignored_pixels:
        problems.append(f"ignored pixels are {int(counts[IGNORE])}, the index says {index.ignored_pixels}")
    return problems
