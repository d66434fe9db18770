"""True ground areas of pixels and polygons, in square metres, on a plane or on the ellipsoid (pyproj is known here)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Geod
from pyproj.exceptions import CRSError

from mkd.geo.raster_info import Transform


class GroundArea:
    """The areas of one raster's pixels and of polygons in its CRS."""

    def __init__(self, crs: str | None, transform: Transform | None) -> None:
        """Read the CRS.

        Args:
            crs: WKT or "EPSG:n", or None.
            transform: (a, b, c, d, e, f) from column and row to the CRS, see `RasterInfo`, or None.
        """
        self._transform, self._geod, self._unit = transform, None, 1.0
        self.known = crs is not None and transform is not None
        if not self.known:
            return
        try:
            system = CRS.from_user_input(crs)
        except CRSError:
            self.known = False
            return
        if system.is_geographic:
            self._geod = system.get_geod() or Geod(ellps="WGS84")
        else:
            axes = system.axis_info
            self._unit = axes[0].unit_conversion_factor if axes else 1.0  # metres in one unit of the CRS

    def of_rows(self, row: int, count: int, column: int = 0) -> NDArray[np.float64]:
        """Return the area of one pixel in each of some rows.

        Args:
            row: the first row.
            count: rows.
            column: the column whose pixels are measured; on the ellipsoid a row's pixels are alike.

        Returns:
            (count,) float64, m2; NaN where the raster has no place on the ground.
        """
        if not self.known or self._transform is None:
            return np.full(count, np.nan)
        a, b, c, d, e, f = self._transform
        if self._geod is None:
            return np.full(count, abs(a * e - b * d) * self._unit**2)
        areas = []
        for r in range(row, row + count):
            corners = [(column, r), (column + 1, r), (column + 1, r + 1), (column, r + 1)]
            lon = [a * x + b * y + c for x, y in corners]
            lat = [d * x + e * y + f for x, y in corners]
            areas.append(abs(self._geod.polygon_area_perimeter(lon, lat)[0]))
        return np.array(areas)

    def of_polygons(self, polygons: Sequence[Any]) -> NDArray[np.float64]:
        """Return the areas of shapely polygons in the raster's CRS.

        Returns:
            (N,) float64, m2; NaN where the raster has no place on the ground.
        """
        if not self.known:
            return np.full(len(polygons), np.nan)
        if self._geod is None:
            return np.array([p.area for p in polygons]) * self._unit**2
        return np.array([abs(self._geod.geometry_area_perimeter(_oriented(p))[0]) for p in polygons])


def _oriented(polygon: Any) -> Any:
    """Return a polygon whose shell runs against its holes: Geod adds up signed areas."""
    from shapely import orient_polygons

    return orient_polygons(polygon)
