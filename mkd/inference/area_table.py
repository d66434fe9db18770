"""areas.csv: what each class of a map covers."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mkd.atomic import write_text
from mkd.geo.grid import Window
from mkd.geo.place.ground_area import GroundArea
from mkd.geo.raster import RasterReader
from mkd.labels import NODATA

_STRIP = 1024  # rows read at once


@dataclass(frozen=True)
class ClassArea:
    """What one class covers: pixels, ground in hectares (NaN: no CRS), mean confidence in [0, 1] (NaN: no pixel)."""

    pixels: int
    hectares: float
    confidence: float


def measure_areas(reader: RasterReader, classes: int) -> list[ClassArea]:
    """Measure each class of a map; memory holds one strip of it.

    Args:
        reader: map of two bands, class id and confidence (p = value / 255), 255 without data.
        classes: their number C.
    """
    info, ground = reader.info, GroundArea(reader.info.crs, reader.info.transform)
    pixels, metres, sums = np.zeros(classes, np.int64), np.zeros(classes), np.zeros(classes)
    for row in range(0, info.height, _STRIP):
        count = min(_STRIP, info.height - row)
        found = reader.read(Window(row, 0, count, info.width), [1, 2])
        ids, confidence = found[..., 0], found[..., 1]
        valid = ids != NODATA
        rows = np.broadcast_to(np.arange(count)[:, None], ids.shape)
        in_rows = np.bincount(rows[valid] * classes + ids[valid], minlength=count * classes).reshape(
            count, classes
        )
        pixels += in_rows.sum(axis=0)
        metres += ground.of_rows(row, count) @ in_rows
        sums += np.bincount(ids[valid], confidence[valid] / 255, classes)
    with np.errstate(invalid="ignore"):
        means = sums / pixels
    return [
        ClassArea(int(n), float(m) / 1e4, float(c)) for n, m, c in zip(pixels, metres, means, strict=True)
    ]


def write_areas(path: str | Path, names: Sequence[str], areas: Sequence[ClassArea]) -> None:
    """Write a line for each class: id, name, pixels, hectares, share of the pixels with data, mean confidence.

    Args:
        path: a CSV file; it appears once it is whole.
        names: class names, by id.
        areas: of each class; hectares that are NaN are left empty.
    """
    text, total = io.StringIO(), max(1, sum(area.pixels for area in areas))
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["class_id", "class", "pixels", "hectares", "share", "mean_confidence"])
    for n, (name, area) in enumerate(zip(names, areas, strict=True)):
        hectares = "" if math.isnan(area.hectares) else f"{area.hectares:.6f}"
        mean = "" if math.isnan(area.confidence) else f"{area.confidence:.4f}"
        rows.writerow([n, name, area.pixels, hectares, f"{area.pixels / total:.6f}", mean])
    write_text(path, text.getvalue())
