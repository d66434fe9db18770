"""What a raster of strangers may not do: name other files, reach the network, or need gigabytes at once."""

from __future__ import annotations

import contextlib
import html
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mkd.image_header import BYTES_A_PIXEL, MAX_PIXELS

MAX_VRT = 64 << 20  # bytes of a .vrt: one of 100,000 rasters has 50 million
MAX_MEMBERS = 100_000  # files that a .vrt may name, those of its members included
_START = 256  # bytes in which text shows
# Tags of a .vrt whose text is a path: SourceFilename, SourceDataset, OverviewFile, ...
_PATH = re.compile(r"<\w*(?:Filename|Dataset|File)\b[^>]*>([^<]*)<", re.IGNORECASE)
_RELATIVE = re.compile(r"relative(?:ToVRT)?\s*=\s*[\"']1[\"']", re.IGNORECASE)
# "NETCDF:file:band", "vrt://...", "https://...": names that a driver of GDAL takes apart
_CONNECTION = re.compile(r"\w{2,}:|<|\{")
_SIDECARS = (".aux.xml", ".ovr", ".msk")  # what GDAL opens beside a raster

Open = Callable[[str], BinaryIO]


@dataclass(frozen=True)
class RasterLimits:
    """What is believed of a raster.

    Attributes:
        max_pixels: greatest number of pixels of a block, which is decoded whole for each window that touches it.
        trust_vrt: let rasters name any files, on the network too.
    """

    max_pixels: int = MAX_PIXELS
    trust_vrt: bool = False


def check_names(path: str, opener: Open | None, limits: RasterLimits) -> None:
    """Check that a raster names no other files, but a .vrt, and that one none outside a file system.

    GDAL goes by a file's content, whatever its name is: text in a .tif can name files of this machine, or URLs.

    Args:
        path: of the raster, as the user names it.
        opener: how to reach what is not on a disk, see `RasterReader`.
        limits: whether it is trusted.

    Raises:
        ValueError: it does, with the advice to give --trust-vrt.
    """
    if limits.trust_vrt:
        return
    opened = opener if opener is not None else _opened
    waiting, seen = [path if opener is None else path.rpartition("/")[2]], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if len(seen) > MAX_MEMBERS:
            raise ValueError(f"{path} names more than {MAX_MEMBERS:,} files: {_ADVICE}")
        for sidecar in _SIDECARS:
            _check_sidecar(path, name + sidecar, opened)
        text = _text_of(name, opened)
        if text is None:
            continue
        if not name.lower().endswith(".vrt"):
            what = path if len(seen) == 1 else f"{path} names {name}, which"
            raise ValueError(f"{what} is text that names other files, not an image: {_ADVICE}")
        waiting += _members(path, name, text)


_ADVICE = "give an image, or --trust-vrt (trust_vrt=true) if you know where it comes from"


def block_fault(data: Any, limits: RasterLimits) -> str:
    """Return "", or why the blocks of an open rasterio data set are too large to be decoded."""
    height, width = (int(side) for side in data.block_shapes[0])
    dtype = str(data.dtypes[0])
    bands = int(data.count) if data.profile.get("interleave") == "pixel" else 1
    size = height * width * bands * (np.dtype(dtype).itemsize if dtype in np.sctypeDict else 8)  # bytes
    if height * width <= limits.max_pixels and size <= BYTES_A_PIXEL * limits.max_pixels:
        return ""
    return (
        f"it is stored in blocks of {height:,} x {width:,} pixels, {size / 1e6:,.0f} MB each, "
        f"that can only be decoded whole (at most {limits.max_pixels:,} pixels and "
        f"{BYTES_A_PIXEL * limits.max_pixels / 1e6:,.0f} MB): copy it with gdal_translate -co TILED=YES "
        "-co COMPRESS=DEFLATE -co BIGTIFF=IF_SAFER, or raise --max-pixels"
    )


def _opened(name: str) -> BinaryIO:
    """Open a file of a disk.

    Raises:
        OSError: no such file.
        ValueError: a FIFO, a device or the like, for which GDAL would wait without end.
    """
    if not os.path.isfile(name):
        if os.path.lexists(name) and not os.path.isdir(name):
            raise ValueError(f"{name} is no file: remove it, or give another raster")
        raise FileNotFoundError(name)
    return open(name, "rb")


def _text_of(name: str, opened: Open) -> str | None:
    """Return the text of a file that begins as XML or JSON does, up to `MAX_VRT`; None for others, and where none is.

    Raises:
        ValueError: more text than that.
    """
    try:
        file = opened(name)
        # Not closed where it comes from an opener, which may give the same file again; nobody waits for it.
        with file if opened is _opened else contextlib.nullcontext():
            start = file.read(_START)
            text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
            data = start + file.read(MAX_VRT + 1) if text[:1] in (b"<", b"{") else b""
            file.seek(0)
    except OSError:
        return None  # whoever opens or reads it says so
    if not data:
        return None
    if len(data) > MAX_VRT:
        raise ValueError(f"{name} has more than {MAX_VRT:,} bytes of text, which no raster needs")
    return data.decode("utf-8", "replace")


def _members(path: str, name: str, text: str) -> list[str]:
    """Return the files that a .vrt names.

    Raises:
        ValueError: one of them is no plain path.
    """
    found = []
    if re.search(r"/vsi\w+", html.unescape(text), re.IGNORECASE):
        raise ValueError(
            f"{path}: {name} names a file of GDAL's /vsi..., such as one on the network: {_ADVICE}"
        )
    for match in _PATH.finditer(text):
        member = html.unescape(match[1]).strip()
        if not member:
            continue
        if _CONNECTION.match(member):
            raise ValueError(f"{path}: {name} names {member[:80]!r}, which is no plain path: {_ADVICE}")
        relative = _RELATIVE.search(match[0]) is not None
        found.append(str(Path(name).parent / member) if relative else member)
    return found


def _check_sidecar(path: str, name: str, opened: Open) -> None:
    """Check a file that GDAL reads beside a raster: statistics and the like may stand there, names of files not."""
    text = _text_of(name, opened)
    if text is None:
        return
    if not name.endswith(".aux.xml") or re.search(
        r"/vsi\w+|OVERVIEW_FILE", html.unescape(text), re.IGNORECASE
    ):
        raise ValueError(f"{path}: {name} beside it names other files: remove it, or {_ADVICE}")
