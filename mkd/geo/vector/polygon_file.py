"""Polygons of a class map -> GeoPackage with a style of its own (pyogrio is known here only)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely

from mkd.atomic import written_aside
from mkd.geo.class_map import Legend
from mkd.geo.place.ground_area import GroundArea
from mkd.geo.raster_info import RasterInfo
from mkd.geo.vector.gis_style import GPKG_OPTIONS, store_style
from mkd.geo.vector.polygons import ClassPolygon, placed_polygons

LAYER = "land_cover"
_CHUNK = 5000  # polygons written at once


def write_polygons(
    polygons: Iterable[ClassPolygon], path: str | Path, legend: Legend, info: RasterInfo
) -> int:
    """Write polygons in the CRS of the map; return their number.

    The layer ``land_cover`` has the fields class_id, class, area_m2 (of the polygon as written; empty where the map
    has no CRS), pixels (of the map) and confidence (their mean, 0 to 1). QGIS finds the colours in the file.

    Args:
        polygons: in pixel coordinates.
        path: a ``.gpkg`` file; it appears once it is whole.
        legend: names and colours.
        info: CRS and transform of the map.

    Raises:
        ValueError: another ending than .gpkg, or a place that cannot be written.
    """
    area, count, source = GroundArea(info.crs, info.transform), 0, iter(polygons)
    with written_aside(path) as aside:
        aside.unlink(missing_ok=True)
        while (chunk := list(islice(source, _CHUNK))) or count == 0:
            geometries = np.array(
                [_multi(p.geometry) for p in placed_polygons(chunk, info.transform)], dtype=object
            )
            ids = np.array([p.class_id for p in chunk], np.int32)
            fields = {
                "class_id": ids,
                "class": np.array([legend.names[n] for n in ids], dtype=object),
                "area_m2": area.of_polygons(list(geometries)),
                "pixels": np.array([p.pixels for p in chunk], np.int64),
                "confidence": np.array([p.mean_confidence for p in chunk]),
            }
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "'crs' was not provided")  # the map has none
                pyogrio.raw.write(
                    aside,
                    shapely.to_wkb(geometries),
                    list(fields.values()),
                    list(fields),
                    layer=LAYER,
                    driver="GPKG",
                    geometry_type="MultiPolygon",
                    crs=info.crs,
                    append=count > 0,
                    dataset_options=None if count else GPKG_OPTIONS,
                )
            count += len(chunk)
            if not chunk:
                break
        store_style(aside, LAYER, legend, "class_id", list(range(len(legend.names))))
    return count


def _multi(geometry: Any) -> Any:
    """Return a geometry as a multi-polygon: a layer has one type."""
    return geometry if geometry.geom_type == "MultiPolygon" else shapely.MultiPolygon([geometry])
