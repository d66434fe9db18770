"""The numbers that networks normalise the bands of a data set by; see `mkd.dataset.band_statistics`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mkd.dataset.band_statistics import BandStatistics
from mkd.dataset.index import DatasetIndex, ShardInfo
from mkd.image_header import MAX_PIXELS
from mkd.storage.folder import Folder
from shards.process_pool import map_in_processes
from shards.progress import progress
from shards.reading.pixels import image_pixels, label_pixels
from shards.reading.shard_reader import read_groups

SAMPLE = 4_000_000  # pixels that are looked at, evenly spread over all
PERCENTILES = (2, 98)
MANY = 0.001  # share of pixels with one extreme value that is no chance
_log = logging.getLogger(__name__)

PLAIN = (3, "uint8")  # what networks take without statistics: ImageNet's colours


class _Task(NamedTuple):
    url: str
    info: ShardInfo
    kind: tuple[int, str]
    step: int
    max_pixels: int


def band_statistics(
    folder: Folder, index: DatasetIndex, workers: int = 1, max_pixels: int | None = None
) -> BandStatistics | None:
    """Return the numbers of a data set's bands; None for 3 bands of uint8, which need none.

    The result does not depend on the number of workers. Pixels without data are left out.

    Args:
        folder: the data set; its index need not be there yet.
        index: what it holds.
        workers: processes, each reading whole shards.
        max_pixels: greatest number of pixels of a tile; None = what the index says, which the caller made.

    Raises:
        ValueError: a damaged shard, or not a single pixel with data.
    """
    kind = (index.bands, index.dtype)
    if kind == PLAIN:
        return None
    step = max(1, index.samples * index.largest[0] * index.largest[1] // SAMPLE)
    largest = index.largest[0] * index.largest[1] * index.bands * np.dtype(index.dtype).itemsize  # bytes
    limit = max(MAX_PIXELS, largest) if max_pixels is None else max_pixels
    tasks = [_Task(folder.url, shard, kind, step, limit) for shard in index.shards]
    parts = list(
        progress(map_in_processes(_sample_shard, tasks, workers), len(tasks), "band statistics", "shards")
    )
    values = np.concatenate(parts)
    for note in outlier_notes(values):
        _log.warning("note: %s", note)
    return of_sample(values, index.dtype, str(folder))


def outlier_notes(values: NDArray[Any]) -> list[str]:
    """Tell of a lowest or highest value that many pixels hold, far from all others: no-data that no file declares.

    Args:
        values: (N, bands), of pixels that hold data.

    Returns:
        A sentence for each such value; far is further than the span of all others.
    """
    shares: dict[float, list[tuple[int, float]]] = {}
    for band, column in enumerate(np.sort(values.T.astype(np.float64), axis=1), 1):
        for rising in (column, -column[::-1]):
            count = int(np.searchsorted(rising, rising[0], "right")) if len(rising) else 0
            rest = rising[count:]
            span = rest[-1] - rest[0] if len(rest) else 0.0  # 0: a band of one or two values, such as a mask
            if count >= MANY * len(rising) and 0 < span < rest[0] - rising[0]:
                value = float(rising[0] if rising is column else -rising[0])
                shares.setdefault(value, []).append((band, count / len(rising)))
    return [
        f"{max(share for _, share in found):.1%} of the pixels hold {value:g} in band "
        f"{', '.join(str(band) for band, _ in found)}, far from all other values: if it means no data, say so in the "
        f"rasters (gdal_edit.py -a_nodata {value:g} FILE) and build again; as it is, networks learn it as a colour"
        for value, found in shares.items()
    ]


def of_sample(values: NDArray[Any], dtype: str, name: str) -> BandStatistics:
    """Return the numbers of pixels (N, bands) that hold data."""
    if not len(values):
        raise ValueError(f"{name} has no pixel with data: build it of other images")
    numbers = values.astype(np.float64)
    low, high = np.zeros(numbers.shape[1]), np.full(numbers.shape[1], 255.0)
    if dtype != "uint8":
        low, high = np.percentile(numbers, PERCENTILES, axis=0)
        high = np.where(high > low, high, low + 1)  # a band of one value
    scaled = np.clip((numbers - low) / (high - low), 0, 1)
    mean, std = scaled.mean(axis=0), scaled.std(axis=0)
    std = np.where(std > 1e-6, std, 1.0)  # of a band of one value, which stays 0 after normalisation
    return BandStatistics(*(tuple(float(f"{x:.9g}") for x in each) for each in (low, high, mean, std)))


def valid_values(pixels: NDArray[Any], members: dict[str, bytes], name: str) -> NDArray[Any]:
    """Return the pixels of a tile that hold data, (N, bands)."""
    if (mask := members.get("valid.png")) is None:
        return pixels.reshape(-1, pixels.shape[2])
    values: NDArray[Any] = pixels[label_pixels(mask, f"{name}.valid.png") != 0]
    return values


def check_kind(pixels: NDArray[Any], kind: Sequence[Any], name: str) -> None:
    """Refuse an image of other bands or another type than its index says."""
    if (pixels.shape[2], str(pixels.dtype)) != tuple(kind):
        raise ValueError(f"{name} is not of the index's bands and type: see `shards verify`")


def _sample_shard(task: _Task) -> NDArray[Any]:
    found = [np.zeros((0, task.kind[0]), task.kind[1])]
    for key, members in read_groups(Folder(task.url), task.info):
        name = f"{task.info.file}, {key}"
        for extension in {"jpg", "png", "tif"} & set(members):
            pixels = image_pixels(members[extension], extension, f"{name}.{extension}", task.max_pixels)
            check_kind(pixels, task.kind, name)
            found.append(valid_values(pixels, members, name)[:: task.step])
    return np.concatenate(found)
