"""Whether the coding of a picture file changed its pixels, by its content."""

from __future__ import annotations

import io
from typing import BinaryIO

from mkd.geo.coding.file_parts import TIFFS, chunks, read_at, tiff_tags

_COMPRESSION, _STRIPS, _TILES = 259, 273, 324  # tags of a TIFF


def lossy_coding(file: BinaryIO) -> str:
    """Name the lossy coding of a picture by its content: "JPEG", say; "" where its pixels are as they were drawn.

    Args:
        file: from its beginning; only headers are read.
    """
    start = file.read(16)
    file.seek(0)
    if not start.startswith(TIFFS):
        return _lossy_start(file)
    tags = tiff_tags(file)
    match tags.get(_COMPRESSION):
        case 6 | 7 | 34892:
            return "JPEG in a TIFF"
        case 34712 | 33003 | 33005 | 50001:  # JPEG 2000 and WebP, whose blocks tell
            block = read_at(file, tags.get(_TILES) or tags.get(_STRIPS) or 0, 4096)
            inside = _lossy_start(io.BytesIO(block))
            return f"{inside} in a TIFF" if inside else ""
    return ""


def _lossy_webp(file: BinaryIO) -> bool:
    """Say whether a WebP holds a lossy picture, alone or as a frame; only those have an ALPH chunk."""
    for kind, _ in chunks(file, 12, "little"):
        if kind == b"ANMF":
            kind = file.read(20)[16:]  # a frame's own header has 16 bytes
        if kind in (b"VP8 ", b"ALPH"):
            return True
    return False


def _lossy_start(file: BinaryIO) -> str:
    start = file.read(4096)
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if start[8:12] == b"WEBP":
        return "WebP" if _lossy_webp(file) else ""
    if start[4:8] == b"ftyp" and start[8:12] in (b"avif", b"avis", b"heic", b"heix", b"mif1"):
        return "AVIF or HEIC"
    if start[4:8] == b"jP  " or start.startswith(b"\xff\x4f\xff\x51"):
        style = start.find(b"\xff\x52")  # its thirteenth byte is 1 for the reversible wavelet
        return "" if style >= 0 and start[style + 13 : style + 14] == b"\x01" else "JPEG 2000"
    return ""
