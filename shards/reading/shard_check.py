"""Check of one shard: every byte and every tile against its record and its index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mkd.dataset.index import ShardInfo
from mkd.dataset.shard_list import shard_place
from mkd.dataset.shard_record import Member, ShardRecord, TileRecord, adopted_meta, read_record
from mkd.label_coding import LabelCoding
from mkd.labels import IGNORE
from mkd.storage.folder import Folder
from shards.reading.pixels import image_pixels, label_pixels
from shards.reading.shard_reader import meta_of
from shards.reading.tar_stream import Contents, HashingReader, group_members, recorded_members

IMAGES = {"jpg", "png", "tif"}


class ShardTask(NamedTuple):
    """One shard to be checked: its folder's URL, what the index says of it and of all tiles, and the pixel limit."""

    url: str
    info: ShardInfo
    classes: int
    bands: int
    dtype: str
    labels: LabelCoding | None
    max_pixels: int

    @property
    def name(self) -> str:
        """What the shard is called in a problem."""
        return self.info.url or self.info.file


@dataclass
class ShardCheck:
    """What was found in a shard: problems, keys, pixels of each label id 0..255, sizes of tiles.

    `sizes` counts the tiles of each (height, width), `first` names one of each size.
    """

    file: str
    problems: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    first: dict[tuple[int, int], str] = field(default_factory=dict)
    labelled: int = 0


def check_shard(task: ShardTask) -> ShardCheck:
    """Read a shard once, from end to end.

    Raises:
        ValueError: a place that refuses, or does not answer.
    """
    found, info, folder = ShardCheck(task.info.file), task.info, Folder(task.url)
    record = _read_matching_record(folder, task, found.problems)
    try:
        digest = _check_tiles(folder, task, record, found)
    except OSError as error:
        found.problems.append(
            f"{task.name} cannot be read ({error.strerror or error}): check the disk, or copy it again"
        )
        return found
    if digest != info.sha256:
        found.problems.append(
            f"{task.name} has SHA-256 {digest[:12]}..., the index says {info.sha256[:12]}...: copy it again"
        )
    _check_counts(found, info, record)
    return found


def _check_tiles(folder: Folder, task: ShardTask, record: ShardRecord | None, found: ShardCheck) -> str:
    """Check the tiles of a shard, one after the other; return the SHA-256 of the whole file."""
    info, (place, name) = task.info, shard_place(folder, task.info)
    if info.url and record is None:  # nobody knows its tiles
        return info.sha256
    with place.open(name, info.bytes) as plain:
        file = HashingReader(plain)
        if info.url and record is not None:
            tiles = recorded_members(file, record)
        else:
            tiles = group_members(file, info.file, info.bytes, found.problems)
        for number, (key, contents) in enumerate(tiles):
            entry = record.tiles[number] if record is not None and number < len(record.tiles) else None
            _check_place(key, contents, entry, task.name, found.problems)
            if info.url and entry is not None:
                contents = {**contents, "json": (Member(0, 0, 0), adopted_meta(entry))}
            try:
                _check_tile(key, contents, entry, task, found)
            except ValueError as error:
                found.problems.append(str(error))
        file.drain()
    return file.digest.hexdigest()


def _read_matching_record(folder: Folder, task: ShardTask, problems: list[str]) -> ShardRecord | None:
    info = task.info
    try:
        record = read_record(folder, info.file)
    except ValueError as error:
        problems.append(str(error))
        return None
    if record.info != info:
        problems.append(f"the record of {info.file} says other things than the index: build it again")
        return None
    if (record.bands, record.dtype) != (task.bands, task.dtype) and info.samples:
        problems.append(
            f"the record of {info.file} says {record.bands} bands of {record.dtype}, the index {task.bands} of "
            f"{task.dtype}: build it again"
        )
    return record


def _check_place(
    key: str, contents: Contents, entry: TileRecord | None, file: str, problems: list[str]
) -> None:
    """Compare a tile's members with the offset index."""
    if entry is None:
        return
    if entry.key != key or {name: place for name, (place, _) in contents.items()} != entry.members:
        problems.append(
            f"{file}, {key}: its offset index says tile {entry.key}, or other places, sizes or CRC-32 of its "
            "members: copy shard and record again"
        )


def _check_tile(
    key: str, contents: Contents, entry: TileRecord | None, task: ShardTask, found: ShardCheck
) -> None:
    """Decode a tile and add it to what was found.

    Raises:
        ValueError: the first problem of this tile.
    """
    name = f"{task.name}, {key}"
    images = sorted(IMAGES & set(contents))
    if (
        set(contents) - {*IMAGES, "label.png", "valid.png", "json"}
        or len(images) != 1
        or "json" not in contents
    ):
        raise ValueError(
            f"{name}: members {sorted(contents)}, needs one of jpg, png and tif, json and maybe label.png, valid.png"
        )
    found.keys.append(key)
    found.labelled += "label.png" in contents
    pixels = image_pixels(contents[images[0]][1], images[0], f"{name}.{images[0]}", task.max_pixels)
    height, width, bands = pixels.shape
    found.sizes[height, width] += 1
    found.first.setdefault((height, width), key)
    if (bands, str(pixels.dtype)) != (task.bands, task.dtype):
        raise ValueError(
            f"{name}: the image has {bands} bands of {pixels.dtype}, the index says {task.bands} of {task.dtype}"
        )
    if entry is not None and entry.key == key and entry.size != (height, width):
        raise ValueError(
            f"{name}: the image is {height} x {width}, its shard's record says {entry.size[0]} x {entry.size[1]} "
            "(height x width): training would not read it; copy the record again, or build the data set again"
        )
    meta = meta_of(key, {"json": contents["json"][1]}, task.name)
    _check_meta(meta, [height, width], "label.png" in contents, name)
    if "valid.png" in contents:
        _check_valid(contents["valid.png"][1], pixels, name)
    if "label.png" in contents:
        _check_label(contents["label.png"][1], [height, width], task, name, found)


def _check_valid(data: bytes, pixels: NDArray[Any], name: str) -> None:
    valid = label_pixels(data, f"{name}.valid.png")
    if valid.shape != pixels.shape[:2] or not np.isin(valid, (0, 255)).all():
        raise ValueError(
            f"{name}: valid.png is {list(valid.shape)} with values {np.unique(valid)[:5].tolist()}, needs the image's "
            f"size, {list(pixels.shape[:2])}, and 0 (missing) or 255: pack it again"
        )


def _check_meta(meta: Mapping[str, Any], size: list[int], labelled: bool, name: str) -> None:
    if meta.get("size") != size:
        raise ValueError(f"{name}: the image is {size}, its json says {meta.get('size')} (height, width)")
    if meta.get("labelled") is not labelled:
        raise ValueError(f"{name}: its json says labelled {meta.get('labelled')}, which is not so")


def _check_label(data: bytes, size: list[int], task: ShardTask, name: str, found: ShardCheck) -> None:
    ids = label_pixels(data, f"{name}.label.png", task.max_pixels, task.labels)
    counts = np.bincount(ids.ravel(), minlength=256)
    found.counts += counts
    if list(ids.shape) != size:
        raise ValueError(f"{name}: the label is {list(ids.shape)}, the image {size} (height, width)")
    wrong = [int(value) for value in np.flatnonzero(counts[:IGNORE]) if value >= task.classes]
    if wrong:
        raise ValueError(f"{name}: label ids {wrong}, allowed are 0..{task.classes - 1} and {IGNORE}")


def _check_counts(found: ShardCheck, info: ShardInfo, record: ShardRecord | None) -> None:
    if (len(found.keys), found.labelled) != (info.samples, info.labelled):
        found.problems.append(
            f"{info.file} holds {len(found.keys)} tiles ({found.labelled} labelled), the index says "
            f"{info.samples} ({info.labelled})"
        )
    if record is None:
        return
    recorded = np.zeros(256, np.int64)
    recorded[: len(record.histogram)] = record.histogram
    recorded[IGNORE] = record.ignored_pixels
    if (recorded != found.counts).any():
        found.problems.append(
            f"{info.file}: its record counts other label pixels than it holds: build it again"
        )
