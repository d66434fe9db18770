"""Polygons of a class map -> GeoPackage with a style of its own (pyogrio is known here only)."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pyogrio
import shapely

from mkd.atomic import written_aside
from mkd.geo.class_map import Legend
from mkd.geo.place.ground_area import GroundArea
from mkd.geo.raster_info import RasterInfo
from mkd.geo.vector.polygons import ClassPolygon

LAYER = "land_cover"
_CHUNK = 5000  # polygons written at once
_FULL = 255  # p = stored confidence / 255


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
            geometries = np.array([_multi(p.geometry) for p in _placed(chunk, info)], dtype=object)
            ids = np.array([p.class_id for p in chunk], np.int32)
            fields = {
                "class_id": ids,
                "class": np.array([legend.names[n] for n in ids], dtype=object),
                "area_m2": area.of_polygons(list(geometries)),
                "pixels": np.array([p.pixels for p in chunk], np.int64),
                "confidence": np.array([p.confidence / max(1, p.pixels) / _FULL for p in chunk]),
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
                )
            count += len(chunk)
            if not chunk:
                break
        _add_style(aside, legend)
    return count


def _multi(geometry: Any) -> Any:
    """Return a geometry as a multi-polygon: a layer has one type."""
    return geometry if geometry.geom_type == "MultiPolygon" else shapely.MultiPolygon([geometry])


def _placed(polygons: list[ClassPolygon], info: RasterInfo) -> list[ClassPolygon]:
    """Bring polygons from pixels to the CRS; without a transform rows run downwards from 0, as QGIS shows them."""
    a, b, c, d, e, f = info.transform or (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)

    def to_ground(xy: Any) -> Any:
        x, y = xy[:, 0], xy[:, 1]
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)

    return [
        ClassPolygon(p.class_id, shapely.transform(p.geometry, to_ground), p.pixels, p.confidence)
        for p in polygons
    ]


def _add_style(path: Path, legend: Legend) -> None:
    """Store the colours as the layer's default style, where QGIS looks for it (table layer_styles)."""
    categories = "".join(
        f'<category value="{n}" symbol="{n}" label={quoteattr(name)} render="true" type="long"/>'
        for n, name in enumerate(legend.names)
    )
    symbols = "".join(
        f'<symbol type="fill" name="{n}"><layer class="SimpleFill"><Option type="Map">'
        f'<Option name="color" type="QString" value="{r},{g},{b},255"/>'
        '<Option name="outline_color" type="QString" value="60,60,60,255"/>'
        '<Option name="outline_width" type="QString" value="0.1"/></Option></layer></symbol>'
        for n, (r, g, b) in enumerate(legend.palette)
    )
    style = (
        '<!DOCTYPE qgis><qgis styleCategories="Symbology"><renderer-v2 type="categorizedSymbol" attr="class_id">'
        f"<categories>{categories}</categories><symbols>{symbols}</symbols></renderer-v2></qgis>"
    )
    with sqlite3.connect(path) as db:
        db.execute(
            "CREATE TABLE layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT, f_table_catalog TEXT(256), "
            "f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30), "
            "styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30), "
            "update_time DATETIME DEFAULT CURRENT_TIMESTAMP)"
        )
        db.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName, "
            "styleQML, styleSLD, useAsDefault, description, owner) "
            "VALUES ('', '', ?, 'geom', 'classes', ?, '', 1, ?, '')",
            (LAYER, style, escape(", ".join(legend.names))),
        )
        db.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier) VALUES "
            "('layer_styles', 'attributes', 'layer_styles')"
        )
    db.close()
