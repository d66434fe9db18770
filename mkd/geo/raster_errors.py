"""Errors of rasterio and GDAL as one sentence with the path."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import rasterio
from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning, RasterioError

CACHE_MIB = 256  # of decoded blocks, a process


class DamagedRaster(ValueError):
    """A raster, or a part of one, that is there and cannot be decoded."""


@contextmanager
def translated(path: str, verb: str) -> Iterator[None]:
    """Turn rasterio's errors into one sentence with the path; a file without georeference is no warning."""
    try:
        # The Env keeps GDAL's own words off stderr; its cache would else take 5 % of the memory.
        with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=CACHE_MIB):
            for kind in (NotGeoreferencedWarning, NodataShadowWarning):
                warnings.simplefilter("ignore", kind)
            yield
    except (RasterioError, OSError) as error:
        if verb != "read":
            raise ValueError(f"cannot write the raster {path}: {_first(error)}") from error
        if "not recognized as being in a supported file format" in str(error):
            raise DamagedRaster(f"{path} is no raster that GDAL can read: give a GeoTIFF") from error
        raise DamagedRaster(
            f"cannot read the raster {path} ({_first(error)}): is it truncated? copy it again"
        ) from error


def _first(error: BaseException) -> str:
    """Return the first line of GDAL's own message: rasterio's error may only point to it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
