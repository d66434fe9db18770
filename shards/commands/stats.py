"""Numbers over all pixels of a data set: mean and spread of each band, pixels and tiles of each class."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from mkd.dataset.index import DatasetIndex, ShardInfo, read_index, write_index
from mkd.image_header import MAX_PIXELS
from mkd.label_coding import LabelCoding
from mkd.labels import IGNORE
from mkd.storage.folder import Folder
from shards.process_pool import map_in_processes
from shards.progress import progress
from shards.reading.band_sample import band_statistics, check_kind, valid_values
from shards.reading.pixels import image_pixels, label_pixels
from shards.reading.shard_reader import read_groups

_log = logging.getLogger(__name__)

_LIMITS = {
    "uint8": (0, 255),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
}  # float32 is summed, not counted


class _Task(NamedTuple):
    url: str
    info: ShardInfo
    bands: int
    dtype: str
    labels: LabelCoding | None
    max_pixels: int


class _Counts(NamedTuple):
    """Pixels of each value (bands, values), and pixels and tiles of each label id (256,), all int64.

    Of float32 `values` are sums (bands, 3) float64: pixels, values, squares; `ends` (2, bands) are least and greatest.
    """

    values: NDArray[Any]
    ends: NDArray[np.float64]
    pixels: NDArray[np.int64]
    tiles: NDArray[np.int64]


def stats(folder: str | os.PathLike[str], workers: int = 1, max_pixels: int = MAX_PIXELS) -> dict[str, Any]:
    """Count every pixel with data of a data set, exactly, whatever the number of workers.

    mean = sum(x) / n,  std = sqrt(sum(x^2) / n - mean^2),  x = value / largest value of the type; float32 as it is.
    An index without the statistics that its bands need, of an earlier version, gets them.

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
    tasks = [
        _Task(place.url, shard, index.bands, index.dtype, index.labels, max_pixels) for shard in index.shards
    ]
    total = _zero_counts(index.bands, index.dtype)
    for counts in progress(map_in_processes(_count_shard, tasks, workers), len(tasks), "stats", "shards"):
        _add(total, counts)
    found = None if index.statistics else band_statistics(place, index, workers, max_pixels)
    if found is not None:
        write_index(place, replace(index, statistics=found))
        _log.info("%s: the bands' statistics are now in its index, for training", folder)
    return {
        "name": index.name,
        "tiles": index.samples,
        "dtype": index.dtype,
        "bands": [_of_band(total, band, index.dtype) for band in range(index.bands)],
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
    low, high = _LIMITS.get(dtype, (0, 2))
    values = np.zeros((bands, high - low + 1), np.int64 if dtype in _LIMITS else np.float64)
    ends = np.stack([np.full(bands, np.inf), np.full(bands, -np.inf)])
    return _Counts(values, ends, np.zeros(256, np.int64), np.zeros(256, np.int64))


def _add(total: _Counts, more: _Counts) -> None:
    for sums, parts in ((total.values, more.values), (total.pixels, more.pixels), (total.tiles, more.tiles)):
        sums += parts
    np.minimum(total.ends[0], more.ends[0], out=total.ends[0])
    np.maximum(total.ends[1], more.ends[1], out=total.ends[1])


def _count_shard(task: _Task) -> _Counts:
    found = _zero_counts(task.bands, task.dtype)
    for key, members in read_groups(Folder(task.url), task.info):
        name = f"{task.info.file}, {key}"
        for extension, data in members.items():
            if extension == "label.png":
                label = label_pixels(data, f"{name}.{extension}", task.max_pixels, task.labels)
                ids = np.bincount(label.ravel(), minlength=256)
                found.pixels[:] += ids
                found.tiles[:] += ids > 0
            elif extension not in ("json", "valid.png"):
                pixels = image_pixels(data, extension, f"{name}.{extension}", task.max_pixels)
                check_kind(pixels, (task.bands, task.dtype), name)
                _count_values(valid_values(pixels, members, name), task.dtype, found)
    return found


def _count_values(values: NDArray[Any], dtype: str, found: _Counts) -> None:
    """Count the values (N, bands) of a tile."""
    if dtype in _LIMITS:
        low, high = _LIMITS[dtype]
        for band in range(values.shape[1]):
            found.values[band] += np.bincount(
                values[:, band].astype(np.int64) - low, minlength=high - low + 1
            )
    elif len(values):
        x = values.astype(np.float64)
        found.values[:] += np.stack([np.full(x.shape[1], float(len(x))), x.sum(0), (x * x).sum(0)], axis=1)
        np.minimum(found.ends[0], x.min(0), out=found.ends[0])
        np.maximum(found.ends[1], x.max(0), out=found.ends[1])


def _of_band(total: _Counts, band: int, dtype: str) -> dict[str, float]:
    if dtype == "int16":
        return _band_statistics(total.values[band], least=-32768)
    if dtype in _LIMITS:
        return _band_statistics(total.values[band])
    number, first, second = (float(x) for x in total.values[band])
    mean = first / number
    ends = {"min": float(total.ends[0, band]), "max": float(total.ends[1, band])}
    return {"mean": mean, "std": max(0.0, second / number - mean**2) ** 0.5, **ends}


def _band_statistics(counts: NDArray[np.int64], least: int = 0) -> dict[str, float]:
    """Sum with Python's integers: no rounding, no overflow, however many tiles; `least` is the first value."""
    top = len(counts) - 1 + least
    present = [int(value) + least for value in np.flatnonzero(counts)]
    number = sum(int(counts[value - least]) for value in present)
    first = sum(int(counts[value - least]) * value for value in present)
    second = sum(int(counts[value - least]) * value**2 for value in present)
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
