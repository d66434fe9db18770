"""Numbers over all pixels of a data set: mean and spread of each band, pixels and tiles of each class."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from mkd.dataset.index import DatasetIndex, ShardInfo, read_index
from mkd.image_header import MAX_PIXELS
from mkd.labels import IGNORE
from mkd.storage.folder import Folder
from shards.process_pool import map_in_processes
from shards.progress import progress
from shards.reading.pixels import image_pixels, label_pixels
from shards.reading.shard_reader import read_groups

_BITS = {"uint8": 8, "uint16": 16}


class _Task(NamedTuple):
    url: str
    info: ShardInfo
    bands: int
    dtype: str
    max_pixels: int


class _Counts(NamedTuple):
    """Pixels of each value (bands, values), and pixels and tiles of each label id (256,), all int64."""

    values: NDArray[np.int64]
    pixels: NDArray[np.int64]
    tiles: NDArray[np.int64]


def stats(folder: str | os.PathLike[str], workers: int = 1, max_pixels: int = MAX_PIXELS) -> dict[str, Any]:
    """Count every pixel of a data set, exactly, whatever the number of workers.

    mean = sum(x) / n,  std = sqrt(sum(x^2) / n - mean^2),  x = value / largest value of the type.

    Args:
        folder: a data set, path or URL.
        workers: processes, each counting whole shards.
        max_pixels: greatest number of pixels of a tile.

    Returns:
        {"name", "tiles", "dtype", "bands": [{"mean", "std", "min", "max"}, ..] in 0..1, "labelled",
        "classes": [{"name", "pixels", "share", "tiles"}, ..] with shares of the labelled pixels,
        "ignored_pixels"}: ready for JSON.

    Raises:
        ValueError: no data set, a damaged one, or a place that does not answer.
    """
    place = Folder(folder)
    index = read_index(place)
    if not index.samples:
        raise ValueError(f"{folder} has no tiles, so there is nothing to count: build it again")
    tasks = [_Task(place.url, shard, index.bands, index.dtype, max_pixels) for shard in index.shards]
    total = _zero_counts(index.bands, index.dtype)
    for counts in progress(map_in_processes(_count_shard, tasks, workers), len(tasks), "stats", "shards"):
        for sums, more in zip(total, counts, strict=True):
            sums += more
    return {
        "name": index.name,
        "tiles": index.samples,
        "dtype": index.dtype,
        "bands": [_band_statistics(counts) for counts in total.values],
        "labelled": index.labelled,
        "classes": _class_statistics(index, total),
        "ignored_pixels": int(total.pixels[IGNORE]),
    }


def statistics_table(found: dict[str, Any]) -> Table:
    """Lay out what `stats` found: bands first, then classes."""
    title = Text(f"{found['name']}: {found['tiles']:,} tiles, {found['dtype']}")  # a name is no markup
    shown = Table(title=title, title_justify="left")
    for heading in ("band", "mean", "std", "min", "max"):
        shown.add_column(heading, justify="left" if heading == "band" else "right")
    for number, band in enumerate(found["bands"], 1):
        numbers = [f"{band[key]:.4f}" for key in ("mean", "std", "min", "max")]
        shown.add_row(str(number), *numbers, end_section=number == len(found["bands"]))
    if not found["labelled"]:
        return shown
    shown.add_row("class", "pixels", "share", "in tiles", "", style="bold", end_section=True)
    for entry in found["classes"]:
        shown.add_row(
            Text(entry["name"]), f"{entry['pixels']:,}", f"{entry['share']:.2%}", f"{entry['tiles']:,}", ""
        )
    shown.add_row("ignored", f"{found['ignored_pixels']:,}", "", "", "")
    return shown


def _zero_counts(bands: int, dtype: str) -> _Counts:
    zeros = [np.zeros(shape, np.int64) for shape in ((bands, 1 << _BITS[dtype]), 256, 256)]
    return _Counts(*zeros)


def _count_shard(task: _Task) -> _Counts:
    found, values = _zero_counts(task.bands, task.dtype), 1 << _BITS[task.dtype]
    for key, members in read_groups(Folder(task.url), task.info):
        name = f"{task.info.file}, {key}"
        for extension, data in members.items():
            if extension == "label.png":
                label = label_pixels(data, f"{name}.{extension}", task.max_pixels)
                ids = np.bincount(label.ravel(), minlength=256)
                found.pixels[:] += ids
                found.tiles[:] += ids > 0
            elif extension != "json":
                pixels = image_pixels(data, extension, f"{name}.{extension}", task.max_pixels)
                if (pixels.shape[2], str(pixels.dtype)) != (task.bands, task.dtype):
                    raise ValueError(f"{name} is not of the index's bands and type: see `shards verify`")
                for band in range(task.bands):
                    found.values[band] += np.bincount(pixels[..., band].ravel(), minlength=values)
    return found


def _band_statistics(counts: NDArray[np.int64]) -> dict[str, float]:
    """Sum with Python's integers: no rounding, no overflow, however many tiles."""
    top = len(counts) - 1
    present = [int(value) for value in np.flatnonzero(counts)]
    number = sum(int(counts[value]) for value in present)
    first = sum(int(counts[value]) * value for value in present)
    second = sum(int(counts[value]) * value**2 for value in present)
    variance = (number * second - first**2) / number**2
    return {
        "mean": first / number / top,
        "std": variance**0.5 / top,
        "min": present[0] / top,
        "max": present[-1] / top,
    }


def _class_statistics(index: DatasetIndex, total: _Counts) -> list[dict[str, Any]]:
    labelled = int(total.pixels[: index.num_classes].sum())
    return [
        {
            "name": name,
            "pixels": int(total.pixels[number]),
            "share": int(total.pixels[number]) / labelled if labelled else 0.0,
            "tiles": int(total.tiles[number]),
        }
        for number, name in enumerate(index.classes)
    ]
