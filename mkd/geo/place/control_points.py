"""Places on Earth that are no transform: ground control points and rational polynomials (RPC)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS

Point = tuple[float, float, float, float, float]  # row and column in pixels, x, y, height


@dataclass(frozen=True)
class ControlPoints:
    """Where a raster without a transform lies: points with their CRS (WKT), and the RPC as GDAL's metadata."""

    points: tuple[Point, ...] = ()
    crs: str | None = None
    rpc: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """Name what there is."""
        kinds = [f"{len(self.points)} ground control points"] if self.points else []
        return " and ".join([*kinds, "RPCs"] if self.rpc else kinds)

    def fit(self) -> tuple[float, float, float, float, float, float] | None:
        """Return the affine map (a, b, c, d, e, f) that fits the points best (least squares); None below three.

        x = a col + b row + c, y = d col + e row + f; None also where the points lie on a line.
        """
        if len(self.points) < 3:
            return None
        grid = np.array([(col, row, 1.0) for row, col, *_ in self.points])
        found, _, rank, _ = np.linalg.lstsq(grid, np.array([point[2:4] for point in self.points]), rcond=None)
        if rank < 3:
            return None
        (a, d), (b, e), (c, f) = found.tolist()
        return a, b, c, d, e, f

    def write(self, data: Any) -> None:
        """Give them to an open rasterio data set of the same pixel grid."""
        if self.points:
            points = [
                GroundControlPoint(row=row, col=col, x=x, y=y, z=z, id=str(number))
                for number, (row, col, x, y, z) in enumerate(self.points, 1)
            ]
            data.gcps = (points, CRS() if self.crs is None else CRS.from_user_input(self.crs))
        if self.rpc:
            data.update_tags(ns="RPC", **dict(self.rpc))

    def to_xml(self) -> str:
        """Return them as the elements of a virtual raster (VRT)."""
        points = "".join(
            f'<GCP Id="{n}" Pixel="{col!r}" Line="{row!r}" X="{x!r}" Y="{y!r}" Z="{z!r}"/>'
            for n, (row, col, x, y, z) in enumerate(self.points, 1)
        )
        text = f"<GCPList Projection={quoteattr(self.crs or '')}>{points}</GCPList>" if points else ""
        if self.rpc:
            items = "".join(f'<MDI key="{key}">{escape(value)}</MDI>' for key, value in self.rpc)
            text += f'<Metadata domain="RPC">{items}</Metadata>'
        return text


def control_points_of(data: Any) -> ControlPoints | None:
    """Read the control points and RPCs of an open rasterio data set; None where it has neither."""
    (points, crs), rpc = data.gcps, data.tags(ns="RPC")
    if not points and not rpc:
        return None
    return ControlPoints(
        tuple((float(p.row), float(p.col), float(p.x), float(p.y), float(p.z or 0)) for p in points),
        crs.to_wkt() if points and crs else None,
        tuple(sorted(rpc.items())),
    )
