"""The bytes of a tar with fixed metadata: a tile's members, their headers, and where the contents lie."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator

from shards.inputs.encode import EncodedTile

BLOCK = 512  # bytes; headers and contents begin at multiples
RECORD = 20 * BLOCK  # whole tars are multiples of these
_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=False)


def encode_members(tile: EncodedTile) -> Iterator[tuple[str, bytes]]:
    """Yield a tile's members in their fixed order by extension: image, label and valid where there are, json."""
    yield tile.extension, tile.image
    if tile.label is not None:
        yield "label.png", tile.label
    if tile.valid is not None:
        yield "valid.png", tile.valid
    meta = {**tile.meta, "labelled": tile.label is not None}
    yield "json", _JSON.encode(meta).encode()


def header(name: str, size: int) -> bytes:
    """Encode the header of a member: one block, or more for names that are long or not ASCII."""
    if not name.isascii() or len(name) > 100 or size >= 8**11:
        return _pax_header(name, size)
    letters, digits = name.encode(), b"%011o" % size
    total = _TOTAL + sum(letters) + sum(digits)
    return b"%b%b%b%b%b%06o\0 %b" % (
        letters, bytes(100 - len(letters)), _OWNER, digits, _TIME, total, _REST
    )  # fmt: skip


def padding(size: int) -> bytes:
    """Return the zeros that fill the last block of a content."""
    return bytes(-size % BLOCK)


def ending(size: int) -> bytes:
    """Return what ends a tar of so many bytes: two empty blocks, and zeros up to a whole record."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % RECORD)


def _pax_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, 0, 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


# The parts of a header that are the same for all members; its sum counts its own field as 8 spaces.
_EMPTY = _pax_header("", 0)
_OWNER, _TIME, _REST = _EMPTY[100:124], _EMPTY[135:148], _EMPTY[156:]
_TOTAL = sum(_OWNER) + sum(_TIME) + sum(_REST) + 8 * ord(" ")
