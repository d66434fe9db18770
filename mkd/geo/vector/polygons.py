"""Class map -> polygons of equal class, strip by strip: shared edges simplified without gaps, merged at the seams.

All geometry is in pixel coordinates (x column, y row) until a polygon is whole, so that the vertices along a seam are
whole numbers on both sides and match exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize, shapes, sieve

from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader
from mkd.geo.raster_info import Transform
from mkd.labels import NODATA

STRIP = 1024  # rows polygonised at once
FULL = 255  # p = stored confidence / 255
_COUNTED = 64  # rows counted at once: numpy makes 16 bytes of each of their pixels


@dataclass
class ClassPolygon:
    """A connected area of one class.

    `geometry` is a shapely polygon in pixel coordinates; `pixels` and `confidence` count the map's pixels in it:
    confidence is the sum of band 2, 255 p each.
    """

    class_id: int
    geometry: Any
    pixels: int
    confidence: float

    @property
    def mean_confidence(self) -> float:
        """Mean probability of its class over its pixels, 0 to 1; 0 where a polygon has no pixel left."""
        return self.confidence / max(1, self.pixels) / FULL


def class_polygons(
    reader: RasterReader, *, tolerance: float = 1.5, smallest: int = 1, strip: int = STRIP
) -> Iterator[ClassPolygon]:
    """Yield the polygons of a class map; pixels without data belong to none.

    Memory holds one strip and the polygons that reach its lower edge, whatever the height of the map.

    Args:
        reader: map of two bands, class id and confidence, 255 without data.
        tolerance: of the simplification, pixels: about the square root of the area that a removed corner may cut
            off (Visvalingam-Whyatt on the whole coverage, so that neighbours keep one common edge). 0: none.
        smallest: areas of fewer pixels go to their largest neighbour first (GDAL's sieve).
        strip: rows at once, >= 1.
    """
    height, width = reader.info.height, reader.info.width
    open_ones: dict[int, ClassPolygon] = {}  # by their number in `bottom`
    bottom = np.full(width, -1)
    for row in range(0, height, strip):
        rows = min(strip, height - row)
        ids, confidence = _sieved(reader, row, rows, smallest)
        found, labels = _polygonise(ids, confidence, row, tolerance)
        numbered = {len(open_ones) + n: polygon for n, polygon in enumerate(found)} | open_ones
        labels = np.where(labels >= 0, labels + len(open_ones), -1)
        groups = _merged(numbered, bottom, labels[0])
        reach = set(labels[-1].tolist()) if row + rows < height else set()
        still_open: dict[int, ClassPolygon] = {}
        renumbered = np.full(len(numbered) + 1, -1)  # the last stands for -1, no data
        for members in groups:
            polygon = _union([numbered[n] for n in members])
            if reach.intersection(members):
                renumbered[members] = len(still_open)
                still_open[len(still_open)] = polygon
            else:
                yield _tidy(polygon)
        open_ones, bottom = still_open, renumbered[labels[-1]]
    assert not open_ones


def placed_polygons(polygons: Iterable[ClassPolygon], transform: Transform | None) -> list[ClassPolygon]:
    """Bring polygons from pixels to the CRS; without a transform rows run downwards from 0, as QGIS shows them."""
    a, b, c, d, e, f = transform or (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)

    def to_ground(xy: Any) -> Any:
        x, y = xy[:, 0], xy[:, 1]
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)

    return [
        ClassPolygon(p.class_id, shapely.transform(p.geometry, to_ground), p.pixels, p.confidence)
        for p in polygons
    ]


def _sieved(
    reader: RasterReader, row: int, rows: int, smallest: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read a strip's class ids and confidence; small areas are merged with their largest neighbour.

    `smallest` rows more on both sides are looked at: an area that seems small there but is not would have to reach
    from the strip to the end of them, and is then larger than `smallest`.
    """
    first, last = max(0, row - smallest), min(reader.info.height, row + rows + smallest)
    if smallest <= 1:
        first, last = row, row + rows
    pixels = reader.read(Window(first, 0, last - first, reader.info.width), [1, 2])
    ids = np.ascontiguousarray(pixels[..., 0])
    if smallest > 1:
        ids = sieve(ids, size=smallest, connectivity=4, mask=ids != NODATA)
    inside = slice(row - first, row - first + rows)
    return ids[inside], pixels[inside, :, 1]


def _polygonise(
    ids: NDArray[np.uint8], confidence: NDArray[np.uint8], row: int, tolerance: float
) -> tuple[list[ClassPolygon], NDArray[np.int32]]:
    """Return a strip's polygons, and the (rows, width) number of the polygon at each pixel, -1 without data."""
    pairs = [(shapely.geometry.shape(g), int(v)) for g, v in shapes(ids, connectivity=4)]
    geometries = np.array([g for g, _ in pairs], dtype=object)
    values = np.array([v for _, v in pairs])
    labels = rasterize(zip(geometries, range(len(pairs)), strict=True), ids.shape, fill=0, dtype="int32")
    pixels, sums = np.zeros(len(pairs), np.int64), np.zeros(len(pairs))
    for top in range(0, len(labels), _COUNTED):
        part = labels[top : top + _COUNTED].ravel()
        pixels += np.bincount(part, minlength=len(pairs))
        sums += np.bincount(part, confidence[top : top + _COUNTED].ravel(), len(pairs))
    if tolerance > 0:
        # A vertex at each pixel's corner: neighbours then have the same vertices along their common edge, which the
        # simplification needs. No-data areas take part, so that the edge to them is simplified too. The strip's own
        # edge stays as it is, or it would not fit its neighbour's.
        geometries = shapely.segmentize(geometries, 1.0)
        geometries = shapely.coverage_simplify(geometries, tolerance, simplify_boundary=False)
    geometries = shapely.transform(geometries, lambda xy: xy + (0, row))
    kept = np.flatnonzero(values != NODATA)
    number = np.full(len(pairs), -1, np.int32)  # 64 bits would take twice a strip's memory
    number[kept] = np.arange(len(kept))
    found = [ClassPolygon(int(values[n]), geometries[n], int(pixels[n]), float(sums[n])) for n in kept]
    return found, number[labels]


def _merged(polygons: dict[int, ClassPolygon], above: NDArray[Any], below: NDArray[Any]) -> list[list[int]]:
    """Group the polygons that continue each other across a seam, by union-find over its columns.

    Args:
        polygons: by number.
        above: (width,) number at each column of the last row before the seam, -1 without data.
        below: the same of the first row after it.
    """
    parent = {n: n for n in polygons}

    def root(n: int) -> int:
        while parent[n] != n:
            parent[n] = parent[parent[n]]
            n = parent[n]
        return n

    pairs = np.unique(np.stack([above, below], 1)[(above >= 0) & (below >= 0)], axis=0)
    for a, b in pairs.tolist():
        if polygons[a].class_id == polygons[b].class_id:
            parent[root(a)] = root(b)
    groups: dict[int, list[int]] = {}
    for n in polygons:
        groups.setdefault(root(n), []).append(n)
    return list(groups.values())


def _union(parts: list[ClassPolygon]) -> ClassPolygon:
    """Join polygons that meet along a seam."""
    if len(parts) == 1:
        return parts[0]
    geometry = shapely.union_all([p.geometry for p in parts])
    return ClassPolygon(
        parts[0].class_id, geometry, sum(p.pixels for p in parts), sum(p.confidence for p in parts)
    )


def _tidy(polygon: ClassPolygon) -> ClassPolygon:
    """Drop the vertices on straight lines, which the seams needed."""
    polygon.geometry = shapely.simplify(polygon.geometry, 0.0)
    return polygon
