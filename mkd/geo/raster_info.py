"""Description of a raster, and whether two rasters have the same pixel grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.enums import ColorInterp

_COLOURS = ("red", "green", "blue", "alpha", "gray")
Transform = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class RasterInfo:
    """Description of a raster: size in pixels, bands, type, place on Earth, no-data value and colour table.

    `crs` is WKT; `transform` is (a, b, c, d, e, f) with x = a col + b row + c, y = d col + e row + f; both
    are None where the file has none. `colormap` maps values of band 1 to (r, g, b, alpha). `alpha` lists the bands
    (counted from 1) that say where there is data; `stored` is the size of the blocks in the file, (height, width).
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
    return RasterInfo(
        height=int(data.height),
        width=int(data.width),
        bands=int(data.count),
        dtype=str(data.dtypes[0]),
        crs=data.crs.to_wkt() if data.crs else None,
        transform=None if data.transform.is_identity else tuple(data.transform)[:6],
        nodata=None if data.nodata is None else float(data.nodata),
        colormap=colormap,
        alpha=tuple(b for b, meaning in enumerate(meanings, 1) if meaning == ColorInterp.alpha),
        stored=(int(data.block_shapes[0][0]), int(data.block_shapes[0][1])),
        # GDAL shows some CMYK files as if they were RGBA.
        inks=ColorInterp.cyan in meanings or structure.get("SOURCE_COLOR_SPACE") == "CMYK",
        names=tuple(text or (m.name if m.name in _COLOURS else "") for text, m in descriptions),
    )


def grid_difference(a: RasterInfo, b: RasterInfo) -> str | None:
    """Return the first difference between the pixel grids of two rasters.

    A transform or CRS is compared only where both have one; transforms may differ by 1/1000 pixel.

    Args:
        a: one raster.
        b: the other.

    Returns:
        The first difference, such as "size 100 x 90 and 100 x 100", or None.
    """
    if (a.height, a.width) != (b.height, b.width):
        return f"size {a.height} x {a.width} and {b.height} x {b.width} pixels (height x width)"
    if a.transform is not None and b.transform is not None:
        pixel = max(abs(a.transform[0]), abs(a.transform[1]), abs(a.transform[3]), abs(a.transform[4]))
        scale = np.array([a.width, a.height, 1.0] * 2)  # how far an error reaches at the far corner
        if (np.abs(np.subtract(a.transform, b.transform)) * scale > pixel / 1000).any():
            return f"transform {a.transform} and {b.transform}"
    if a.crs is not None and b.crs is not None and CRS.from_wkt(a.crs) != CRS.from_wkt(b.crs):
        return f"CRS {a.crs[:60]}... and {b.crs[:60]}..."
    return None
