"""Where a single image lies on Earth, as its file says."""

from __future__ import annotations

from typing import NamedTuple

_TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF


class ImagePlace(NamedTuple):
    """CRS (WKT) and transform (a, b, c, d, e, f) for a tile's KEY.json, None where the file has none.

    `controlled` says that it has control points or RPCs in place of a transform.
    """

    crs: str | None = None
    transform: list[float] | None = None
    controlled: bool = False


def tiff_place(data: bytes) -> ImagePlace:
    """Return where a TIFF says that it lies; nothing for other files.

    Args:
        data: an image file, which has been read before.
    """
    if not data.startswith(_TIFFS):
        return ImagePlace()
    from mkd.geo.raster_info import tiff_info

    info = tiff_info(data)
    transform = None if info.transform is None else list(info.transform)
    return ImagePlace(info.crs, transform, info.control is not None)
