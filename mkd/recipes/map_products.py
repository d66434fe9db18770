"""What is made of a finished map: polygons, the table of areas, the preview page."""

import math
from pathlib import Path

import numpy as np

from mkd.config.schema import PredictRun
from mkd.geo.class_map import Legend
from mkd.geo.ground_area import GroundArea
from mkd.geo.raster import RasterReader
from mkd.geo.vector.polygon_file import write_polygons
from mkd.geo.vector.polygons import class_polygons
from mkd.inference.area_table import SQUARE_METRES_OF_HECTARE, write_areas
from mkd.inference.map_writer import MapSummary
from mkd.report.preview import ClassCover, write_preview
from mkd.report.thumbnails import map_view

PREVIEW_SIDE = 2000  # pixels: longest side of the pictures in a preview


def check_products(config: PredictRun) -> None:
    """Refuse endings and sizes that cannot be written, before anything is predicted."""
    for key, endings in (
        ("polygons", (".gpkg",)),
        ("areas", (".csv",)),
        ("preview", (".html", ".htm")),
    ):
        value = getattr(config, key)
        if value is not None and Path(value).suffix.lower() not in endings:
            raise ValueError(f"{key}={value}: the name must end in {endings[0]}")
        if value is not None and not Path(value).absolute().parent.is_dir():
            raise ValueError(f"the folder of {key}={value} does not exist: create it, or name another")
    if not 0 <= config.min_area < math.inf:
        raise ValueError(f"min_area={config.min_area}: square metres, 0 or more")
    if config.min_area and config.polygons is None:
        raise ValueError(f"min_area={config.min_area} is for polygons: give polygons=FILE.gpkg too")


def write_products(config: PredictRun, legend: Legend, summary: MapSummary) -> list[str]:
    """Write what the config asks for beside the map; return a line about each."""
    said = []
    if config.polygons is not None:
        with RasterReader(config.output) as reader:
            smallest = _pixels(config.min_area, reader)
            found = class_polygons(reader, smallest=smallest)
            count = write_polygons(found, config.polygons, legend, reader.info)
        said.append(f"polygons: {config.polygons}, {count:,} polygons")
    if config.areas is not None:
        write_areas(config.areas, legend.names, summary)
        said.append(f"areas: {config.areas}")
    if config.preview is not None:
        view = map_view(config.input, config.output, PREVIEW_SIDE)
        classes = zip(
            legend.names,
            legend.palette,
            summary.class_pixels,
            (area / SQUARE_METRES_OF_HECTARE for area in summary.class_areas),
            summary.class_confidence,
            strict=True,
        )
        cover = [ClassCover(*fields) for fields in classes]
        about = f"{summary.width} x {summary.height} pixels; model {config.model}"
        write_preview(config.preview, view, cover, Path(config.output).name, about)
        said.append(f"preview: {config.preview}")
    return said


def _pixels(square_metres: float, reader: RasterReader) -> int:
    """Return an area in pixels, measured in the middle of the map."""
    if not square_metres:
        return 1
    info = reader.info
    pixel = float(GroundArea(info.crs, info.transform).of_rows(info.height // 2, 1, info.width // 2)[0])
    if np.isnan(pixel):
        raise ValueError(
            f"min_area={square_metres} is in square metres, and {reader.path} has no CRS: leave min_area out, or give "
            "the scene its CRS (gdal_edit.py -a_srs)"
        )
    return max(1, math.ceil(square_metres / pixel))
