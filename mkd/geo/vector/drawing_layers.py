"""An empty layer to draw labels into, the outlines of the tiles, and what a model would draw: one GeoPackage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray

from mkd.atomic import written_aside
from mkd.geo.class_map import Legend
from mkd.geo.raster_info import Transform
from mkd.geo.vector.gis_style import GPKG_OPTIONS, store_style
from mkd.geo.vector.polygons import ClassPolygon

LABELS, OUTLINES, PRELABELS, FIELD = "labels", "tiles", "prelabels", "class"
Layer = tuple[str, dict[str, NDArray[Any]], Sequence[Any]]  # name, fields, geometries


def write_drawing_layers(
    path: str | Path,
    legend: Legend,
    crs: str,
    tiles: Mapping[str, tuple[Transform, int, int]],
    prelabels: Sequence[ClassPolygon] | None = None,
) -> None:
    """Write the layers ``labels`` (empty, with the field ``class``) and ``tiles`` (outlines, with the field ``tile``).

    With pre-labels also ``prelabels``: polygons with the fields ``class`` and ``confidence`` (0 to 1). QGIS draws both
    in the class colours and offers the class names as a list.

    Args:
        path: a ``.gpkg`` file; it appears once it is whole.
        legend: names and colours.
        crs: of all tiles, WKT.
        tiles: by key: transform, height and width in pixels.
        prelabels: a model's polygons in the CRS of the tiles; None writes no such layer.

    Raises:
        OSError: a place that cannot be written.
    """
    outlines = [_outline(*place) for place in tiles.values()]
    layers: list[Layer] = [
        (LABELS, {FIELD: np.array([], object)}, []),
        (OUTLINES, {"tile": np.array(list(tiles), object)}, outlines),
    ]
    if prelabels is not None:
        parts = [
            (p, part) for p in prelabels for part in shapely.get_parts(p.geometry)
        ]  # labels are single too
        fields = {
            FIELD: np.array([legend.names[p.class_id] for p, _ in parts], object),
            "confidence": np.array([p.mean_confidence for p, _ in parts], np.float64),
        }
        layers.append((PRELABELS, fields, [part for _, part in parts]))
    with written_aside(Path(path)) as aside:
        aside.unlink(missing_ok=True)
        for number, (layer, fields, shapes) in enumerate(layers):
            pyogrio.raw.write(
                aside,
                np.array(shapely.to_wkb(np.array(shapes, object)), object),
                list(fields.values()),
                list(fields),
                layer=layer,
                driver="GPKG",
                geometry_type="Polygon",
                crs=crs,
                append=number > 0,
                dataset_options=None if number else GPKG_OPTIONS,
            )
        for layer in [LABELS] if prelabels is None else [LABELS, PRELABELS]:
            store_style(aside, layer, legend, FIELD, legend.names)


def _outline(transform: Transform, height: int, width: int) -> shapely.Polygon:
    a, b, c, d, e, f = transform
    corners = ((0, 0), (width, 0), (width, height), (0, height))
    return shapely.Polygon([(a * x + b * y + c, d * x + e * y + f) for x, y in corners])
