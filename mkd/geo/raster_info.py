"""Description of a raster, and whether two rasters have the same pixel grid."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT

from mkd.geo.place.control_points import ControlPoints, control_points_of
from mkd.geo.place.crs import crs_name, same_horizontal_crs

_COLOURS = ("red", "green", "blue", "alpha", "gray")
Transform = tuple[float, float, float, float, float, float]

GRID_TOLERANCE = 0.1  # pixels: extents typed with few digits still mean the same grid


@dataclass(frozen=True)
class RasterInfo:
    """Description of a raster: size in pixels, bands, type, place on Earth, no-data value and colour table.

    `crs` is WKT; `transform` is (a, b, c, d, e, f) with x = a col + b row + c, y = d col + e row + f; both
    are None where the file has none. `colormap` maps values of band 1 to (r, g, b, alpha). `alpha` lists the bands
    (counted from 1) that say where there is data; `stored` is the size of the blocks in the file, (height, width).
    `control` holds ground control points and RPCs, of a raster without a transform.
    `files` are those on a disk that it consists of: itself, a mask beside it, what a VRT names; `tags` are the texts by
    name that its header holds.
    `inks` is True for cyan, magenta, yellow and black in place of colours; `names` has what the file calls each band:
    its description, else its colour, else "".
    """

    height: int
    width: int
    bands: int
    dtype: str
    crs: str | None
    transform: Transform | None
    nodata: float | None
    colormap: dict[int, tuple[int, ...]] | None
    alpha: tuple[int, ...]
    stored: tuple[int, int]
    control: ControlPoints | None = None
    files: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)
    inks: bool = False
    names: tuple[str, ...] = ()


def info_of(data: Any) -> RasterInfo:
    """Describe an open rasterio data set."""
    try:
        colormap: dict[int, tuple[int, ...]] | None = data.colormap(1)
    except ValueError:  # rasterio's way to say that there is none
        colormap = None
    meanings, structure = data.colorinterp, data.tags(ns="IMAGE_STRUCTURE")
    descriptions = zip(data.descriptions, meanings, strict=True)
    transform: Transform | None = None if data.transform.is_identity else tuple(data.transform)[:6]
    return RasterInfo(
        height=int(data.height),
        width=int(data.width),
        bands=int(data.count),
        dtype=str(data.dtypes[0]),
        crs=data.crs.to_wkt() if data.crs else None,
        transform=transform,
        nodata=None if data.nodata is None else float(data.nodata),
        colormap=colormap,
        alpha=tuple(b for b, meaning in enumerate(meanings, 1) if meaning == ColorInterp.alpha),
        stored=(int(data.block_shapes[0][0]), int(data.block_shapes[0][1])),
        control=control_points_of(data) if transform is None else None,
        files=tuple(name for name in data.files if os.path.isfile(name)),
        tags=dict(data.tags()),
        # GDAL shows some CMYK files as if they were RGBA.
        inks=ColorInterp.cyan in meanings or structure.get("SOURCE_COLOR_SPACE") == "CMYK",
        names=tuple(text or (m.name if m.name in _COLOURS else "") for text, m in descriptions),
    )


def tiff_info(data: bytes) -> RasterInfo:
    """Describe a TIFF in memory, which can be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with MemoryFile(data) as file, file.open(driver="GTiff") as raster:
            return info_of(raster)


def warped(data: Any, grid: RasterInfo) -> WarpedVRT:
    """Return an open rasterio data set on another grid, nearest neighbour; outside the file no pixel has data."""
    if data.nodata is None and MaskFlags.per_dataset not in data.mask_flag_enums[0]:
        options: dict[str, Any] = {"add_alpha": True}
    else:
        options = {}
    place = {"crs": grid.crs, "transform": Affine(*(grid.transform or ())), "height": grid.height}
    return WarpedVRT(data, resampling=Resampling.nearest, width=grid.width, **place, **options)


def grid_difference(a: RasterInfo, b: RasterInfo) -> str | None:
    """Return the first difference between the pixel grids of two rasters.

    Of two CRS the horizontal parts count. A transform or CRS is compared only where both have one.

    Args:
        a: one raster.
        b: the other; its corners may lie up to `GRID_TOLERANCE` pixels beside those of `a`.

    Returns:
        The first difference, such as "size 100 x 90 and 100 x 100", or None.
    """
    if (a.height, a.width) != (b.height, b.width):
        return f"size {a.height} x {a.width} and {b.height} x {b.width} pixels (height x width)"
    if (offset := grid_offset(a, b)) > GRID_TOLERANCE:
        places = " and ".join(str(info.transform or info.control) for info in (a, b))
        return f"transform {places}, by up to {offset:.3g} pixels ({GRID_TOLERANCE} are allowed)"
    if a.crs is not None and b.crs is not None and a.crs != b.crs:
        corners = _corners(a)
        near = GRID_TOLERANCE * _pixel_edge(a)
        if not same_horizontal_crs(a.crs, b.crs, corners[:, 0].tolist(), corners[:, 1].tolist(), near):
            return f"CRS, {crs_name(a.crs)} and {crs_name(b.crs)}"
    return None


def grid_text(info: RasterInfo) -> str:
    """Describe a grid in a message: size, pixel edges, upper left corner, CRS."""
    size = f"{info.height} x {info.width} pixels"
    if info.transform is None:
        return f"{size}, no transform"
    a, b, c, d, e, f = info.transform
    edges = f"{np.hypot(a, d):.6g} x {np.hypot(b, e):.6g}"
    crs = "no CRS" if info.crs is None else crs_name(info.crs)
    return f"{size} of {edges} from ({c:.10g}, {f:.10g}) on, {crs}"


def grid_offset(a: RasterInfo, b: RasterInfo) -> float:
    """Return how far the corners of two rasters of one size lie apart, in pixels of the first; 0 = unknown.

    Two rasters that have only ground control points are compared by the affine maps that fit these best.
    """
    own, other = a.transform, b.transform
    if own is None and other is None:
        own, other = (None if info.control is None else info.control.fit() for info in (a, b))
    if own is None or other is None:
        return 0.0
    first = np.array(own).reshape(2, 3)
    shift = _corners(replace(b, transform=other)) - _corners(replace(a, transform=own))
    try:
        return float(np.hypot(*np.linalg.solve(first[:, :2], shift.T)).max())
    except np.linalg.LinAlgError:  # a transform without area
        return 0.0 if own == other else float("inf")


def _corners(info: RasterInfo) -> NDArray[np.float64]:
    """Return the (4, 2) corners in the units of the CRS."""
    place = np.array(info.transform or (1, 0, 0, 0, 1, 0), float).reshape(2, 3)
    ends = [(col, row, 1.0) for row in (0, info.height) for col in (0, info.width)]
    corners: NDArray[np.float64] = np.array(ends, float) @ place.T
    return corners


def _pixel_edge(info: RasterInfo) -> float:
    a, b, _, d, e, _ = info.transform or (1, 0, 0, 0, 1, 0)
    return float(abs(a * e - b * d) ** 0.5)
