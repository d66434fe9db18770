"""areas.csv: what each class of a map covers."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from mkd.atomic import write_text
from mkd.inference.map_writer import MapSummary

SQUARE_METRES_OF_HECTARE = 10_000.0


def write_areas(path: str | Path, names: Sequence[str], summary: MapSummary) -> None:
    """Write a line for each class: id, name, pixels, hectares, share of the pixels with data, mean confidence.

    Hectares are true ground areas, also for maps in degrees; the field is empty where the map has no CRS.

    Args:
        path: a CSV file; it appears once it is whole.
        names: class names, by id.
        summary: of the map.
    """
    text, total = io.StringIO(), max(1, sum(summary.class_pixels))
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["class_id", "class", "pixels", "hectares", "share", "mean_confidence"])
    for n, name in enumerate(names):
        pixels, area, sure = summary.class_pixels[n], summary.class_areas[n], summary.class_confidence[n]
        hectares = "" if math.isnan(area) else f"{area / SQUARE_METRES_OF_HECTARE:.4f}"
        mean = "" if math.isnan(sure) else f"{sure:.4f}"
        rows.writerow([n, name, pixels, hectares, f"{pixels / total:.6f}", mean])
    write_text(path, text.getvalue())
