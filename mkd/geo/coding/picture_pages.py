"""Whether a picture file holds several pictures, pages or frames, of which every reader takes the first alone."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import BinaryIO

from PIL import Image

from mkd.geo.coding.file_parts import TIFFS, chunks, tiff_directories

_KIND, _OLD_KIND = 254, 255  # NewSubfileType and SubfileType of a TIFF
_REDUCED, _MASK, _OLD_REDUCED = 1, 4, 2
_FAULT = (
    "holds several pictures (pages or frames), of which the first alone would be taken: save the one that is meant as "
    "a file of its own; of a TIFF with gdal_translate GTIFF_DIR:NUMBER:IN OUT"
)


def check_pages(data: bytes, name: str) -> None:
    """Check that a picture in memory is one picture.

    Raises:
        ValueError: it is not, called by its name.
    """
    if fault := pages_fault(io.BytesIO(data)):
        raise ValueError(f"{name} {fault}")


def pages_fault(file: BinaryIO) -> str:
    """Return "", or that a file holds several pictures: TIFF, PNG (APNG), GIF, WebP and AVIF; only headers are read.

    Overviews and masks of a TIFF are no pictures of their own, and neither are the previews behind a camera's JPEG
    (MPO), whose first picture is the primary one by its standard.

    Args:
        file: a picture; it is at its beginning again afterwards.
    """
    file.seek(0)
    start = file.read(16)
    several = False
    if start.startswith(TIFFS):
        pages = 0
        for tags in tiff_directories(file):
            pages += not (tags.get(_KIND, 0) & (_REDUCED | _MASK) or tags.get(_OLD_KIND) == _OLD_REDUCED)
            if several := pages > 1:
                break
    elif start.startswith(b"\x89PNG"):
        several = _frames_of_png(file) > 1
    elif start[8:12] == b"WEBP":
        frames = (kind for kind, _ in chunks(file, 12, "little") if kind == b"ANMF")
        several = next(frames, None) is not None and next(frames, None) is not None
    elif start.startswith(b"GIF8"):
        file.seek(0)
        with suppress(
            Exception
        ):  # a damaged header says nothing; whether the pixels are whole is checked elsewhere
            several = bool(getattr(Image.open(file), "is_animated", False))
    elif start[4:12] == b"ftypavis":
        several = True
    file.seek(0)
    return _FAULT if several else ""


def _frames_of_png(file: BinaryIO) -> int:
    """Read the number of frames of an APNG, which stands before the pixels; 1 of a plain PNG."""
    for kind, _ in chunks(file, 8, "big"):
        if kind == b"acTL":
            return int.from_bytes(file.read(4), "big")
        if kind in (b"IDAT", b"IEND"):
            break
    return 1
