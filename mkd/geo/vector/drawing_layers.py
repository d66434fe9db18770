"""An empty layer to draw labels into, and the outlines of the tiles to be labelled: one GeoPackage."""

from __future__ import annotations

from collections.abc import Mapping
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

LABELS, OUTLINES, FIELD = "labels", "tiles", "class"


def write_drawing_layers(
    path: str | Path, legend: Legend, crs: str, tiles: Mapping[str, tuple[Transform, int, int]]
) -> None:
    """Write the layers ``labels`` (empty, with the field ``class``) and ``tiles`` (outlines, with the field ``tile``).

    QGIS draws the labels in the class colours and offers the class names as a list.

    Args:
        path: a ``.gpkg`` file; it appears once it is whole.
        legend: names and colours.
        crs: of all tiles, WKT.
        tiles: by key: transform, height and width in pixels.

    Raises:
        OSError: a place that cannot be written.
    """
    outlines = [_outline(*place) for place in tiles.values()]
    with written_aside(Path(path)) as aside:
        aside.unlink(missing_ok=True)
        layers: tuple[tuple[str, str, NDArray[Any], list[shapely.Polygon]], ...] = (
            (LABELS, FIELD, np.array([], object), []),
            (OUTLINES, "tile", np.array(list(tiles), object), outlines),
        )
        for number, (layer, name, values, shapes) in enumerate(layers):
            geometry = np.array(shapely.to_wkb(np.array(shapes, object)), object)
            pyogrio.raw.write(
                aside,
                geometry,
                [values],
                [name],
                layer=layer,
                driver="GPKG",
                geometry_type="Polygon",
                crs=crs,
                append=number > 0,
                dataset_options=None if number else GPKG_OPTIONS,
            )
        store_style(aside, LABELS, legend, FIELD, legend.names)


def _outline(transform: Transform, height: int, width: int) -> shapely.Polygon:
    a, b, c, d, e, f = transform
    corners = ((0, 0), (width, 0), (width, height), (0, height))
    return shapely.Polygon([(a * x + b * y + c, d * x + e * y + f) for x, y in corners])
