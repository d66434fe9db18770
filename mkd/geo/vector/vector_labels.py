"""Polygons drawn in a GIS -> class ids on the pixel grid of an image, window by window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError
from rasterio import Affine
from rasterio.features import rasterize

from mkd.geo.grid import Window
from mkd.geo.raster_info import RasterInfo
from mkd.labels import IGNORE

ENDINGS = (".gpkg", ".geojson", ".json", ".shp", ".fgb")
_SHOWN = 10  # values in a message


@dataclass(frozen=True)
class VectorSource:
    """A vector file of labels and how it is read.

    Attributes:
        path: GeoPackage, GeoJSON, Shapefile or FlatGeobuf.
        layer: its name; None = the only one.
        field: attribute that names the class.
        buffer: metres by which points and lines grow; None = they are refused.
        extent: file whose polygons say which ground was looked at: all else is ignored. None = everywhere.
    """

    path: str
    layer: str | None = None
    field: str = "class"
    buffer: float | None = None
    extent: str | None = None


class VectorLabels:
    """The features of one layer, in the CRS of one image; burned into any of its windows."""

    def __init__(
        self,
        source: VectorSource,
        grid: RasterInfo,
        classes: Sequence[str],
        values: Mapping[str, int],
        outside: int,
    ) -> None:
        """Read the features that may lie on the image.

        Args:
            source: the file.
            grid: the image's grid; it needs a CRS and a transform.
            classes: class names, by id.
            values: attribute value as text -> class id or 255, for values that are neither name nor id.
            outside: id of the ground outside every feature: 255 (ignored) or a class.

        Raises:
            ValueError: a file, layer or field that cannot be read, no CRS, an unknown value, points without `buffer`.
        """
        if grid.crs is None or grid.transform is None:
            raise ValueError(
                f"the image for {source.path} has no place on Earth (CRS and transform): polygons cannot be laid on "
                "it; give it one (gdal_edit.py -a_srs EPSG:N -a_ullr ...), or give label rasters"
            )
        self.source, self._transform, self._outside = source, grid.transform, outside
        found, values_found = _read(source, source.path, grid, source.field)
        ids = _class_ids(values_found, source, classes, values)
        self._features = found
        self._ids = np.array(ids, np.int64)
        self._tree = shapely.STRtree(found)
        self._looked_at = None
        if source.extent is not None:
            ground, _ = _read(VectorSource(source.extent), source.extent, grid, None)
            self._looked_at = shapely.union_all(ground)

    def __len__(self) -> int:
        """Return the number of features in the layer."""
        return len(self._features)

    @property
    def classes_found(self) -> set[int]:
        """Return the ids of the features; 255 where a value is ignored."""
        return set(self._ids.tolist())

    def read_ids(self, window: Window) -> NDArray[np.uint8]:
        """Burn the features of a window: a pixel belongs to the feature that its middle lies in.

        Where features overlap, the later one in the file wins.

        Args:
            window: pixels of the image.

        Returns:
            (H, W) uint8 class ids, 255 where ignored.
        """
        a, b, c, d, e, f = self._transform
        top, left, shape = window.row, window.col, (window.height, window.width)
        affine = Affine(a, b, c + a * left + b * top, d, e, f + d * left + e * top)
        corners = [(left, top), (left + window.width, top), (left + window.width, top + window.height)]
        corners.append((left, top + window.height))
        ground = shapely.Polygon([(a * x + b * y + c, d * x + e * y + f) for x, y in corners])
        near = np.sort(self._tree.query(ground))  # in the order of the file
        pairs = [(self._features[n], int(self._ids[n])) for n in near if not self._features[n].is_empty]
        ids: NDArray[np.uint8] = np.full(shape, self._outside, np.uint8)
        if pairs:
            ids = rasterize(pairs, shape, fill=self._outside, transform=affine, dtype="uint8")
        if self._looked_at is not None:
            seen = np.zeros(shape, np.uint8)
            if self._looked_at.intersects(ground):
                seen = rasterize([(self._looked_at, 1)], shape, fill=0, transform=affine, dtype="uint8")
            ids[seen == 0] = IGNORE
        return ids


def _read(
    source: VectorSource, path: str, grid: RasterInfo, field: str | None
) -> tuple[NDArray[Any], list[str]]:
    """Return the features of a file in the image's CRS, as (multi)polygons, and the values of a field as text."""
    if not Path(path).exists():
        raise ValueError(f"no vector file at {path}: give a GeoPackage, GeoJSON or Shapefile")
    try:
        layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
        layer = _choose_layer(source, path, layers)
        names = [str(n) for n in pyogrio.read_info(path, layer=layer)["fields"]]
        if field is not None and field not in names:
            raise ValueError(
                f"{path} has no field '{field}' in its layer '{layer}'; it has {_listed(names)}: name one"
            )
        meta, _, geometry, columns = pyogrio.raw.read(path, layer=layer, columns=[field] if field else [])
    except (DataSourceError, DataLayerError) as error:
        raise ValueError(f"{path} cannot be read as a vector file: {str(error).splitlines()[0]}") from None
    shapes = shapely.force_2d(shapely.from_wkb(geometry))
    missing = shapely.is_missing(shapes) | shapely.is_empty(shapes)
    values = [_text(v) for v in columns[0]] if field else [""] * len(shapes)
    shapes, values = shapes[~missing], [v for v, gone in zip(values, missing, strict=True) if not gone]
    shapes = _widened(_reprojected(shapes, meta["crs"], path, grid), source, path, grid)
    broken = ~shapely.is_valid(shapes)
    shapes[broken] = shapely.make_valid(shapes[broken])  # bow-ties and the like, as GIS programs draw them
    return shapes, values


def _choose_layer(source: VectorSource, path: str, layers: list[str]) -> str:
    if path == source.path and source.layer is not None:
        if source.layer not in layers:
            raise ValueError(
                f"{path} has no layer '{source.layer}'; it has {_listed(layers)}: name one with --layer"
            )
        return source.layer
    if len(layers) != 1:
        raise ValueError(
            f"{path} has {len(layers)} layers with geometry ({_listed(layers)}): name one with --layer"
        )
    return layers[0]


def _reprojected(shapes: NDArray[Any], crs: str | None, path: str, grid: RasterInfo) -> NDArray[Any]:
    """Bring features into the image's CRS."""
    if crs is None:
        raise ValueError(
            f"{path} has no CRS: set it in your GIS (QGIS: Layer > Set CRS of Layer, then export it)"
        )
    try:
        way = Transformer.from_crs(CRS.from_user_input(crs), CRS.from_user_input(grid.crs), always_xy=True)
    except CRSError as error:
        raise ValueError(f"{path}: its CRS cannot be brought to the image's ({error})") from None

    def to_image(xy: Any) -> Any:
        return np.stack(way.transform(xy[:, 0], xy[:, 1]), axis=1)

    moved: NDArray[Any] = shapely.transform(shapes, to_image)
    return moved


def _widened(shapes: NDArray[Any], source: VectorSource, path: str, grid: RasterInfo) -> NDArray[Any]:
    """Grow points and lines to areas."""
    flat = shapely.get_dimensions(shapes) < 2
    if not flat.any():
        return shapes
    if source.buffer is None:
        raise ValueError(
            f"{path} has {int(flat.sum()):,} points or lines, which cover no pixel: give --buffer METRES, "
            "or draw polygons"
        )
    system = CRS.from_user_input(grid.crs)
    if system.is_geographic:
        raise ValueError(
            f"--buffer is in metres and the image of {path} is in degrees: bring the image to a projected "
            "CRS (gdalwarp), or draw polygons"
        )
    unit = system.axis_info[0].unit_conversion_factor or 1.0
    shapes[flat] = shapely.buffer(shapes[flat], source.buffer / unit)
    return shapes


def _class_ids(
    found: Sequence[str], source: VectorSource, classes: Sequence[str], values: Mapping[str, int]
) -> list[int]:
    """Return the class id of each value: by `values`, by name, or as an id."""
    known = (
        {str(n): n for n in range(len(classes))} | {name: n for n, name in enumerate(classes)} | dict(values)
    )
    unknown = Counter(v for v in found if v not in known)
    if unknown:
        listed = ", ".join(f"{value!r} ({count:,})" for value, count in unknown.most_common(_SHOWN))
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise ValueError(
            f"{source.path}: the field '{source.field}' has values that are no class: {listed}{more}; the classes are "
            f"{_listed(classes)}: map them in the class file, such as names: "
            f"{{{next(iter(unknown))!r}: {classes[0]}}}, or to 255 to ignore them"
        )
    return [known[v] for v in found]


def _text(value: Any) -> str:
    """Return an attribute as text: 3 and 3.0 are '3', nothing is '(empty)'."""
    if value is None or (isinstance(value, (float, np.floating)) and np.isnan(value)):
        return "(empty)"
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "") if names else "none"
