"""The files that a raster's pixels and place come from: sources of a VRT, masks, world files, metadata beside it."""

from __future__ import annotations

import os
import warnings

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError


def raster_files(path: str | os.PathLike[str]) -> list[str]:
    """List the files that a raster on a disk depends on, through VRTs of VRTs.

    Args:
        path: a raster.

    Returns:
        The path itself, then the others, sorted; one that is named and not there too. Overviews (.ovr) are left out, as
        no pixel comes from them.
    """
    first = os.fspath(path)
    found, rest = {first}, [first]
    with rasterio.Env(), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        while rest:
            try:
                with rasterio.open(rest.pop()) as data:
                    named = set(data.files)
            except (RasterioError, OSError):  # a mask, a world file, or one that is not there
                continue
            new = {file for file in named if not file.endswith(".ovr")} - found
            found |= new
            rest += sorted(new)
    return [first, *sorted(found - {first})]
