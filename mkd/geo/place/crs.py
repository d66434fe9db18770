"""Coordinate reference systems: their horizontal parts compared, and points brought from one into another."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # GDAL's errors, which `transform` lets through
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform as warp_points

Floats = NDArray[np.float64]
LON_LAT = "EPSG:4326"


@lru_cache(maxsize=1024)
def horizontal_crs(crs: str) -> CRS | None:
    """Return the horizontal part of a CRS: without heights, and without a shift to another datum.

    Args:
        crs: WKT or "EPSG:n"; compound, bound and three-dimensional ones too.

    Returns:
        The part; None for what is no place on a planet: not a CRS, or one of a building site's own.
    """
    try:
        with rasterio.Env():  # keeps the words of GDAL off stderr
            whole = CRS.from_user_input(crs)
            parts = described = whole.to_dict(projjson=True)
            while parts.get("type") in ("CompoundCRS", "BoundCRS"):
                parts = parts["components"][0] if parts["type"] == "CompoundCRS" else parts["source_crs"]
            parts = _without_height(parts)
            flat = whole if parts == described else CRS.from_dict(parts)
            return flat if flat.is_projected or flat.is_geographic else None
    except (RasterioError, CPLE_BaseError, KeyError, TypeError, ValueError):
        return None


def crs_name(crs: str) -> str:
    """Name a CRS briefly: "EPSG:32633 + EPSG:5773", or the name in its WKT."""
    try:
        with rasterio.Env():
            parts = CRS.from_user_input(crs).to_dict(projjson=True)
    except (RasterioError, CPLE_BaseError, ValueError):
        return repr(crs[:60])
    return " + ".join(_short_name(part) for part in parts.get("components", [parts]))


def same_horizontal_crs(a: str, b: str, xs: Sequence[float], ys: Sequence[float], tolerance: float) -> bool:
    """Say whether two CRS have the same horizontal part, however they are spelled.

    Two that are known under different EPSG codes differ. Else they are one when points stay where they are.

    Args:
        a: WKT or "EPSG:n".
        b: the other.
        xs: x of the points, in the units of the CRS.
        ys: y of the points.
        tolerance: how far a point may move, in the same units.
    """
    first, second = horizontal_crs(a), horizontal_crs(b)
    if first is None or second is None:
        return a == b
    if first == second:
        return True
    codes = (first.to_epsg(), second.to_epsg())
    if None not in codes and codes[0] != codes[1]:
        return False
    if first.is_geographic != second.is_geographic:
        return False
    there = reproject_points(np.asarray(xs, float), np.asarray(ys, float), a, b)
    return bool(np.hypot(there[0] - xs, there[1] - ys).max() <= tolerance)  # nan is not


def is_geographic(crs: str) -> bool:
    """Say whether a CRS counts in degrees of longitude and latitude."""
    found = horizontal_crs(crs)
    return found is not None and bool(found.is_geographic)


def reproject_points(xs: Floats, ys: Floats, source: str, target: str) -> tuple[Floats, Floats]:
    """Bring points from one CRS into another.

    Args:
        xs: (N,) x or longitude.
        ys: (N,) y or latitude.
        source: CRS of the points; its horizontal part counts.
        target: the CRS wanted.

    Returns:
        x and y in the target, nan where a point has no place there.
    """
    start, end = horizontal_crs(source), horizontal_crs(target)
    found = np.full((2, len(xs)), math.nan)
    if start is None or end is None:
        return found[0], found[1]
    spans = [(0, len(xs))]
    with rasterio.Env():
        while spans:
            low, high = spans.pop()
            try:
                found[:, low:high] = warp_points(start, end, xs[low:high], ys[low:high])
            except (RasterioError, CPLE_BaseError):
                # One point that has no place there fails the whole call: halve it until that one is alone.
                middle = (low + high) // 2
                spans += [(low, middle), (middle, high)] if high - low > 1 else []
    found[~np.isfinite(found)] = math.nan
    return found[0], found[1]


def _axes(parts: dict[str, Any]) -> int:
    return len(parts.get("coordinate_system", {}).get("axis", ()))


def _without_height(parts: dict[str, Any]) -> dict[str, Any]:
    """Leave out the third axis of a CRS, and of the one that it is projected from."""
    flat = json.loads(json.dumps(parts))
    for part in (flat, flat.get("base_crs", {})):
        if _axes(part) > 2:
            part["coordinate_system"]["axis"] = part["coordinate_system"]["axis"][:2]
            part.pop("id", None)
    return dict(flat)


def _short_name(parts: dict[str, Any]) -> str:
    if parts.get("type") == "BoundCRS":
        parts = parts["source_crs"]
    code = parts.get("id", {})
    return f"{code['authority']}:{code['code']}" if code else str(parts.get("name", "a CRS without a name"))
