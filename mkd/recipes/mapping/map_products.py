"""What is made of a finished map: polygons, the table of areas, the preview page."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mkd.atomic import check_writable
from mkd.config.schema import PredictRun
from mkd.geo.class_map import Legend
from mkd.geo.place.ground_area import GroundArea
from mkd.geo.raster import RasterReader
from mkd.geo.vector.polygon_file import write_polygons
from mkd.geo.vector.polygons import class_polygons
from mkd.inference.area_table import ClassArea, measure_areas, write_areas
from mkd.report.drawing.thumbnails import map_view
from mkd.report.preview import ClassCover, write_preview

PREVIEW_SIDE = 2000  # pixels: longest side of the pictures in a preview
ENDINGS = {"polygons": ".gpkg", "areas": ".csv", "preview": ".html"}


def plan_products(config: PredictRun, outputs: Sequence[str]) -> None:
    """Check where the products of some maps go, before anything is predicted.

    Raises:
        ValueError: a wrong ending, a place that cannot be written, or a min_area without polygons.
    """
    if not 0 <= config.min_area < math.inf:
        raise ValueError(f"min_area={config.min_area}: square metres, 0 or more")
    if config.min_area and config.polygons is None:
        raise ValueError(f"min_area={config.min_area} is for polygons: give polygons=FILE.gpkg too")
    for key, ending in ENDINGS.items():
        value = getattr(config, key)
        if value is None:
            continue
        if len(outputs) == 1 and Path(value).suffix.lower() != ending:
            raise ValueError(f"{key}={value}: the name must end in {ending}")
        if len(outputs) > 1 and Path(value).suffix.lower() == ending:
            raise ValueError(f"{key}={value} is one file, and there are {len(outputs)} maps; give a folder")
        for output in outputs:
            check_writable(product_path(config, key, output, len(outputs) > 1))


def check_min_area(config: PredictRun, scene: RasterReader) -> None:
    """Refuse a `min_area` where a scene cannot tell how large its pixels are, before anything is predicted.

    Raises:
        ValueError: square metres are asked for, and the scene has no CRS or transform.
    """
    if config.polygons is not None:
        _pixels(config.min_area, scene)


def product_path(config: PredictRun, key: str, output: str, several: bool) -> str:
    """Return where a product of a map goes: the file that the key names, or the map's name in that folder."""
    value = str(getattr(config, key))
    return str(Path(value) / f"{Path(output).stem}{ENDINGS[key]}") if several else value


def write_products(
    config: PredictRun, scene: RasterReader, output: str, legend: Legend, several: bool
) -> list[str]:
    """Write what the config asks for beside one map; return a line about each.

    All is read from the finished map, so that a product may be asked for later without predicting again.

    Args:
        config: of the command.
        scene: the raster that the map was made from.
        output: the map.
        legend: of the model.
        several: this is one of several maps.
    """
    said = []
    paths = {
        key: product_path(config, key, output, several) for key in ENDINGS if getattr(config, key) is not None
    }
    with RasterReader(output) as reader:
        if path := paths.get("polygons"):
            found = class_polygons(reader, smallest=_pixels(config.min_area, reader))
            count = write_polygons(found, path, legend, reader.info)
            said.append(f"polygons: {path}, {count:,} polygons")
        areas = measure_areas(reader, len(legend.names)) if {"areas", "preview"} & paths.keys() else []
        size = f"{reader.info.width} x {reader.info.height} pixels"
    if path := paths.get("areas"):
        write_areas(path, legend.names, areas)
        said.append(f"areas: {path}")
    if path := paths.get("preview"):
        view = map_view(scene, output, PREVIEW_SIDE)
        write_preview(path, view, _cover(legend, areas), Path(output).name, f"{size}; model {config.model}")
        said.append(f"preview: {path}")
    return said


def _cover(legend: Legend, areas: Sequence[ClassArea]) -> list[ClassCover]:
    return [
        ClassCover(name, colour, area.pixels, area.hectares, area.confidence)
        for name, colour, area in zip(legend.names, legend.palette, areas, strict=True)
    ]


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
