"""The files that a raster's pixels and place come from: sources of a VRT, masks, world files, metadata beside it."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from contextlib import suppress

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from mkd.geo.coding.lossy_coding import lossy_coding
from mkd.geo.coding.picture_pages import pages_fault
from mkd.geo.picture_header import read_orientation
from mkd.geo.raster_safety import MAX_VRT
from mkd.geo.remote_file_bridge import Opener, guarded

_SCALED_SOURCE = re.compile(r"<(\w+Source)\b[^>]*\bresampling=[\"']([a-z]\w*)[\"'].*?</\1>", re.I | re.S)
_SIDES = re.compile(r"<(Src|Dst)Rect\b([^>]*)>", re.I)
_NUMBER = re.compile(r"(\w+)=[\"']([-+.\deE]+)[\"']")
_WARPED = re.compile(r"<ResampleAlg>\s*([a-z]\w*)\s*<", re.I)
_EXACT = ("nearest", "nearestneighbour", "near", "mode")  # give values that are there


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


def lossy_sources(files: Sequence[str], opener: Opener | None = None) -> str:
    """Name what changed the values of a raster, or of a file that a VRT takes them from.

    Args:
        files: the raster, then what it depends on, see `raster_files`.
        opener: how to reach files that are not on a disk, see `RasterReader`.

    Returns:
        A lossy coding, such as "JPEG" or "JPEG (labels.jpg)", or "a VRT resampled by bilinear"; "" = as drawn.
    """
    for name in files:
        found = _lossy(name, opener)
        if found:
            return found if name == files[0] else f"{found} ({os.path.basename(name)})"
    return ""


def _lossy(name: str, opener: Opener | None) -> str:
    try:
        with open(name, "rb") if opener is None else opener(name) as file:
            found = lossy_coding(file)
            file.seek(0)
            if found:
                return found
            if name.lower().endswith(".vrt"):
                return _resampled(file.read(MAX_VRT).decode("utf-8", "replace"))
            if not file.read(4).startswith((b"II", b"MM")):
                return ""
    except OSError:  # not there; or of GDAL's /vsi..., which a trusted VRT may name
        if opener is not None or "/vsi" not in name:
            return ""
    return _lossy_for_gdal(name, opener)


def _lossy_for_gdal(name: str, opener: Opener | None) -> str:
    """Name a lossy coding that GDAL tells of: of LERC in a TIFF, whose blocks say by how much values may be off."""
    with warnings.catch_warnings(), suppress(RasterioError, OSError), rasterio.Env():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        more = {} if opener is None else {"opener": guarded(opener, [])}
        with rasterio.open(name, **more) as data:
            told = data.tags(ns="IMAGE_STRUCTURE")
            if float(told.get("MAX_Z_ERROR", 0)) > 0:
                return "LERC with an error above 0"
            if data.driver == "JPEG" or told.get("COMPRESSION", "").endswith("JPEG"):
                return "JPEG"
            if told.get("COMPRESSION_REVERSIBILITY") == "LOSSY":
                return str(told.get("COMPRESSION", data.driver))
    return ""


def source_fault(files: Sequence[str], opener: Opener | None = None) -> str:
    """Return "", or why pixels that a VRT takes are not those that a viewer shows of the file that it names.

    GDAL takes the first picture of such a file, as it is stored.

    Args:
        files: the VRT, then what it depends on, see `raster_files`.
        opener: how to reach files that are not on a disk, see `RasterReader`.
    """
    for name in files[1:]:
        with suppress(OSError), open(name, "rb") if opener is None else opener(name) as file:
            fault = pages_fault(file)
            with suppress(ValueError):  # a placed GeoTIFF that is turned: whoever opens that one says so
                if not fault and (turned := read_orientation(file)) != 1:
                    fault = (
                        f"has orientation {turned} in its EXIF data, which a VRT does not heed and viewers do: make an "
                        "upright copy of it, or one without the orientation"
                    )
            if fault:
                return f"{files[0]} takes pixels of {name}, which {fault}"
    return ""


def _resampled(vrt: str) -> str:
    """Say how a VRT makes new values of those between which a pixel lies; "" where it takes values as they are."""
    used = [found[2] for found in _SCALED_SOURCE.finditer(vrt) if not _is_pixel_by_pixel(found[0])]
    new = [name for name in [*used, *_WARPED.findall(vrt)] if name.lower() not in _EXACT]
    return f"a VRT resampled by {new[0]}" if new else ""


def _is_pixel_by_pixel(source: str) -> bool:
    """Whether a source of a VRT is placed without scaling, pixel upon pixel, so that its resampling has no use."""
    sides = {kind.lower(): dict(_NUMBER.findall(rest)) for kind, rest in _SIDES.findall(source)}
    if len(sides) < 2:
        return True
    try:
        (x, y, w, h), (x2, y2, w2, h2) = (
            [float(sides[kind][key]) for key in ("xOff", "yOff", "xSize", "ySize")] for kind in ("src", "dst")
        )
    except (KeyError, ValueError):
        return False
    return (w, h) == (w2, h2) and (x - x2) % 1 == 0 and (y - y2) % 1 == 0
