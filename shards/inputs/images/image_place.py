"""Where a single image lies on Earth, as its file says."""

from __future__ import annotations

from typing import Any

_TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF


def tiff_place(data: bytes) -> dict[str, Any]:
    """Return CRS and transform of a TIFF for its tile's KEY.json; None of each for other files.

    Args:
        data: an image file, which has been read before.
    """
    if not data.startswith(_TIFFS):
        return {"crs": None, "transform": None}
    from mkd.geo.raster_info import tiff_info

    info = tiff_info(data)
    return {"crs": info.crs, "transform": info.transform and list(info.transform)}
