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
_LAYER = "|layername="  # as QGIS writes the layer of a file
_SHOWN = 10  # values in a message


@dataclass(frozen=True)
class VectorSource:
    """A vector file of labels and how it is read.

    Attributes:
        path: GeoPackage, GeoJSON, Shapefile or FlatGeobuf.
        layer: its name; None = the only one.
        field: attribute that names the class.
        outside: id of the ground outside every feature: 255 (ignored) or a class.
        buffer: metres by which points and lines grow; None = they are refused.
        extent: file whose polygons say which ground was looked at: all else is ignored. None = everywhere.

    A path may name its layer as QGIS does: ``FILE.gpkg|layername=NAME``.
    """

    path: str
    layer: str | None = None
    field: str = "class"
    outside: int = IGNORE
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
    ) -> None:
        """Read the features that may lie on the image.

        Args:
            source: the file.
            grid: the image's grid; it needs a CRS and a transform.
            classes: class names, by id.
            values: attribute value as text -> class id or 255, for values that are neither name nor id.

        Raises:
            ValueError: a file, layer or field that cannot be read, no CRS, an unknown value, points without `buffer`.
        """
        if grid.crs is None or grid.transform is None:
            raise ValueError(
                f"the image for {source.path} has no place on Earth (CRS and transform): polygons cannot be laid on "
                "it; give it one (gdal_edit.py -a_srs EPSG:N -a_ullr ...), or give label rasters"
            )
        self.source, self._transform = source, grid.transform
        found, values_found = _read(source, grid, source.field)
        ids = _class_ids(values_found, source, classes, values)
        self._features = found
        self._ids = np.array(ids, np.int64)
        self._tree = shapely.STRtree(found)
        self._looked_at = None
        if source.extent is not None:
            ground, _ = _read(VectorSource(source.extent), grid, None)
            self._looked_at = shapely.union_all(ground)

    def __len__(self) -> int:
        """Return the number of features that may lie on the image."""
        return len(self._features)

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
        ids: NDArray[np.uint8] = np.full(shape, self.source.outside, np.uint8)
        if pairs:
            ids = rasterize(pairs, shape, fill=self.source.outside, transform=affine, dtype="uint8")
        if self._looked_at is not None:
            seen = np.zeros(shape, np.uint8)
            if self._looked_at.intersects(ground):
                seen = rasterize([(self._looked_at, 1)], shape, fill=0, transform=affine, dtype="uint8")
            ids[seen == 0] = IGNORE
        return ids


def classes_by_text(classes: Sequence[str]) -> dict[str, int]:
    """Return the class ids by what a user may write for them: the id, or the name, which wins."""
    return {str(n): n for n in range(len(classes))} | {name: n for n, name in enumerate(classes)}


def vector_path(path: str) -> str | None:
    """Return the file of a path that names a vector file, with its layer as QGIS writes it or without; else None."""
    file = path.partition(_LAYER)[0]
    return file if file.lower().endswith(ENDINGS) else None


def companion_files(file: str) -> list[str]:
    """List the files that a vector file on a disk consists of beside itself, those that are there."""
    stem = file[: file.rfind(".")] if file.lower().endswith(".shp") else None
    beside = [f"{stem}{end}" for end in (".shx", ".dbf", ".prj", ".cpg")] if stem else [f"{file}-wal"]
    return [name for name in beside if Path(name).is_file()]


def _read(source: VectorSource, grid: RasterInfo, field: str | None) -> tuple[NDArray[Any], list[str]]:
    """Return the features near an image in its CRS, as (multi)polygons, and the values of a field as text."""
    path, _, named = source.path.partition(_LAYER)
    if not Path(path).exists():
        raise ValueError(f"no vector file at {path}: give a GeoPackage, GeoJSON, Shapefile or FlatGeobuf")
    try:
        layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
        layer = _choose_layer(path, named or source.layer, layers)
        info = pyogrio.read_info(path, layer=layer)
        names = [str(n) for n in info["fields"]]
        if field is not None and field not in names:
            raise ValueError(
                f"{path} has no field '{field}' in its layer '{layer}'; it has {_listed(names)}: name one with --field"
            )
        way = _way(info["crs"], path, grid)
        columns = [field] if field else []
        bounds = _bounds_there(way, grid, source.buffer or 0.0)
        meta, _, geometry, values = pyogrio.raw.read(path, layer=layer, columns=columns, bbox=bounds)
    except (DataSourceError, DataLayerError) as error:
        raise ValueError(f"{path} cannot be read as a vector file: {str(error).splitlines()[0]}") from None
    shapes = shapely.force_2d(shapely.from_wkb(geometry))
    there = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
    texts = [_text(v) for v in values[0][there]] if field else [""] * int(there.sum())

    def to_image(xy: Any) -> Any:
        return np.stack(way.transform(xy[:, 0], xy[:, 1]), axis=1)

    shapes = _widened(shapely.transform(shapes[there], to_image), source, path, grid)
    broken = ~shapely.is_valid(shapes)
    shapes[broken] = shapely.make_valid(shapes[broken])  # bow-ties and the like, as GIS programs draw them
    return shapes, texts


def _choose_layer(path: str, asked: str | None, layers: list[str]) -> str:
    if asked is not None and asked not in layers:
        raise ValueError(f"{path} has no layer '{asked}'; it has {_listed(layers)}: name one of them")
    if asked is None and len(layers) != 1:
        raise ValueError(
            f"{path} has {len(layers)} layers with geometry ({_listed(layers)}): name one, with --layer or as "
            f"{path}{_LAYER}NAME"
        )
    return asked or layers[0]


def _way(crs: str | None, path: str, grid: RasterInfo) -> Transformer:
    """Return the way from the CRS of a file to that of the image."""
    if crs is None:
        raise ValueError(
            f"{path} has no CRS: set it in your GIS (QGIS: Layer > Set CRS of Layer, then export it)"
        )
    try:
        return Transformer.from_crs(CRS.from_user_input(crs), CRS.from_user_input(grid.crs), always_xy=True)
    except CRSError as error:
        raise ValueError(f"{path}: its CRS cannot be brought to the image's ({error})") from None


def _bounds_there(
    way: Transformer, grid: RasterInfo, margin: float
) -> tuple[float, float, float, float] | None:
    """Return the image's bounds in the CRS of a vector file, with a margin in metres; None = not known there."""
    a, b, c, d, e, f = grid.transform or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    ends = [(x, y) for x in (0, grid.width) for y in (0, grid.height)]
    xs, ys = [a * x + b * y + c for x, y in ends], [d * x + e * y + f for x, y in ends]
    # Lines between corners bend in another CRS: a tenth of the side more than takes that in.
    wide = 0.1 * max(max(xs) - min(xs), max(ys) - min(ys)) + margin
    box = (min(xs) - wide, min(ys) - wide, max(xs) + wide, max(ys) + wide)
    found = way.transform_bounds(*box, direction="INVERSE")
    return found if all(np.isfinite(found)) and found[0] < found[2] else None


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
    known = classes_by_text(classes) | dict(values)
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
