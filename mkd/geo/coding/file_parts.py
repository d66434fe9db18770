"""Parts of picture files: a TIFF's directories and their tags, the chunks of a PNG or WebP; only headers are read."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
_WHOLE_TYPES = {1: "B", 3: "H", 4: "I", 8: "h", 9: "i", 16: "Q"}  # TIFF's numbers of types, struct's letters
_FARTHEST = 1 << 50  # bytes; a seek beyond a file system's limit is an error of the system
_MOST_TAGS = 4096  # no real file has as many


def tiff_tags(file: BinaryIO) -> dict[int, int]:
    """Read the first value of each tag of a TIFF's first picture; none of a damaged one.

    Args:
        file: a TIFF or BigTIFF of either byte order; only its directory is read.

    Returns:
        Values by tag; 0 for tags that hold no whole numbers.
    """
    found = next(tiff_directories(file), {})
    file.seek(0)
    return found


def tiff_directories(file: BinaryIO) -> Iterator[dict[int, int]]:
    """Yield the tags of each picture of a TIFF, see `tiff_tags`, up to where it is damaged or goes round."""
    start = read_at(file, 0, 16)
    order = "<" if start[:2] == b"II" else ">"
    big = struct.unpack(order + "H", start[2:4])[0] == 43
    pointer, head = ("Q", "Q") if big else ("I", "H")  # of an offset, and of the number of entries
    field, seen = struct.calcsize(pointer), set[int]()
    with suppress(
        struct.error, OverflowError
    ):  # what is cut off says nothing; whether the pixels are whole is checked elsewhere
        place = struct.unpack(order + pointer, start[field : 2 * field])[0]
        while place and place not in seen:
            seen.add(place)
            count = struct.unpack(order + head, read_at(file, place, struct.calcsize(head)))[0]
            if count >= _MOST_TAGS:
                return
            entries, following = file.read(count * (4 + 2 * field)), file.read(field)
            tags: dict[int, int] = {}
            for at in range(0, len(entries) - 3 - 2 * field, 4 + 2 * field):
                tag, kind, number = struct.unpack_from(order + "HH" + pointer, entries, at)
                code, value = _WHOLE_TYPES.get(kind, ""), entries[at + 4 + field :][:field]
                if code and number * struct.calcsize(code) > field:
                    value = read_at(file, struct.unpack(order + pointer, value)[0], 8)
                with suppress(struct.error):
                    tags[tag] = struct.unpack_from(order + code, value)[0] if code else 0
            yield tags
            place = struct.unpack(order + pointer, following)[0]


def chunks(file: BinaryIO, start: int, order: str) -> Iterator[tuple[bytes, int]]:
    """Yield type and length of each chunk of a PNG ("big") or WebP ("little"); the file is at the chunk's content."""
    place = start
    while len(header := read_at(file, place, 8)) == 8:
        if order == "big":
            size, kind = int.from_bytes(header[:4], "big"), header[4:]
            place += 12 + size
        else:
            kind, size = header[:4], int.from_bytes(header[4:], "little")
            place += 8 + size + size % 2
        yield kind, size


def read_at(file: BinaryIO, place: int, size: int) -> bytes:
    """Read some bytes at a place, fewer where the file ends before; none where no file system reaches."""
    if place >= _FARTHEST:
        return b""
    file.seek(place)
    return file.read(size)
