"""The record beside each shard, `SHARD.json`: offsets and CRC-32 of its members, and what its build counted."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mkd.dataset.index import ShardInfo
from mkd.dataset.shard_list import parse_url, shard_url
from mkd.documents import MAX_JSON, file_name, mapping, parse_json, sequence, shown, whole
from mkd.documents import text as one_line
from mkd.pixel_scale import MAX_BANDS
from mkd.storage.folder import Folder

FORMAT = "mkd-shard"
VERSION = 1

Content = bytes | memoryview  # of a member
Members = dict[str, Content]  # of a tile by extension, such as "jpg" and "label.png"


class Member(NamedTuple):
    """A file in its tar: offset of its content, size in bytes, CRC-32 of the content."""

    offset: int
    size: int
    crc32: int


class TileRecord(NamedTuple):
    """One tile of a shard: key, (height, width) in pixels, members by extension such as "jpg", "label.png"."""

    key: str
    size: tuple[int, int]
    members: dict[str, Member]


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard.

    Attributes:
        info: file, tiles, labelled tiles, bytes, SHA-256; a unit of work without a tile has no tar, and `samples` 0.
        tiles: one entry a tile, in the tar's order.
        histogram: labelled pixels of each class id 0..255 (trailing zeros cut).
        ignored_pixels: labelled pixels with id 255.
        bands: bands of each image.
        dtype: "uint8", "uint16", "int16" or "float32".
        missing_pixels: pixels of images that hold no data; their tiles have a member "valid.png".
        unit: fingerprint of the inputs and options this shard was made of; another one means that it is built again.
        quarantine: bad tiles left out: {"source", "reason", "labelled"}.
        left_out: other counts, such as {"no_data": 3, "blank": 1}.
        named: examples of what was counted, the first ones of each reason.
    """

    info: ShardInfo
    tiles: tuple[TileRecord, ...]
    histogram: tuple[int, ...] = ()
    ignored_pixels: int = 0
    bands: int = 3
    dtype: str = "uint8"
    unit: str = ""
    quarantine: tuple[Mapping[str, Any], ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    missing_pixels: int = 0
    named: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the content of the record's file."""
        tiles = [[entry.key, *entry.size, entry.members] for entry in self.tiles]
        rest = {"histogram": self.histogram, "ignored_pixels": self.ignored_pixels, "bands": self.bands}
        rest |= {"dtype": self.dtype, "unit": self.unit, "quarantine": list(self.quarantine)}
        if self.missing_pixels:  # left out where there are none, as earlier versions wrote it
            rest |= {"missing_pixels": self.missing_pixels}
        if self.named:
            rest |= {"named": {reason: list(names) for reason, names in self.named.items()}}
        rest |= {"left_out": dict(self.left_out), "tiles": tiles}
        return {"format": FORMAT, "version": VERSION, **self.info.to_json(), **rest}


def record_name(shard_file: str) -> str:
    """Return the record's file name: NAME-000000.tar -> NAME-000000.json."""
    return shard_file.removesuffix(".tar") + ".json"


def write_record(folder: Folder, record: ShardRecord) -> None:
    """Write the record of a shard, after the shard itself."""
    text = json.dumps(record.to_json(), separators=(",", ":"), ensure_ascii=False)
    folder.write(record_name(record.info.file), text + "\n")


def read_record(folder: Folder, shard_file: str) -> ShardRecord:
    """Read the record of a shard.

    Raises:
        ValueError: no record, a damaged one, or one of another format.
    """
    name = record_name(shard_file)
    try:
        text = folder.read(name, 0, MAX_JSON + 1 if folder.local else None)  # a longer one is refused below
    except FileNotFoundError:
        raise ValueError(
            f"{folder.url_of(name)} is missing, the offset index of {shard_file}: copy it here again, or build "
            "the data set again"
        ) from None
    try:
        content = parse_json(text)
    except ValueError as error:
        raise ValueError(
            f"{folder.url_of(name)} cannot be read ({error}): copy it again, or build it again"
        ) from None
    found = (content.get("format"), content.get("version")) if isinstance(content, dict) else (None, None)
    if found != (FORMAT, VERSION):
        raise ValueError(
            f"{folder.url_of(name)} has format {shown(found[0])} version {shown(found[1])}, this program reads "
            f"{FORMAT!r} version {VERSION}: build the data set again"
        )
    try:
        return _parse(content)
    except (KeyError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{folder.url_of(name)} is damaged ({reason}): build the data set again") from None


def read_matching_record(folder: Folder, info: ShardInfo) -> ShardRecord:
    """Read the record of a shard, and check that it agrees with the shard's entry in the index.

    Raises:
        ValueError: no record, a damaged one, or one of another build.
    """
    record = read_record(folder, info.file)
    if record.info != info:
        raise ValueError(
            f"{shard_url(folder, info)} has a record of another build (SHA-256 {record.info.sha256[:12]}, "
            f"{record.info.samples} tiles; the index says {info.sha256[:12]}, {info.samples} tiles): "
            "copy the whole data set again, or build it again"
        )
    for key, _, members in record.tiles:
        for kind, (offset, size, _) in members.items():
            if offset + size > info.bytes:
                raise ValueError(
                    f"{folder.url_of(record_name(info.file))} is damaged (tile {key}: its {kind!r} ends at byte "
                    f"{offset + size:,} of {info.bytes:,}): build the data set again"
                )
    return record


def adopted_meta(tile: TileRecord) -> bytes:
    """Return the KEY.json of an adopted tile, which has none of ours: its source is its key, and it has no place."""
    meta = {"source": tile.key, "window": None, "size": list(tile.size), "crs": None, "transform": None}
    return json.dumps({**meta, "labelled": "label.png" in tile.members}).encode()


def member_fault(kind: str, content: Content, member: tuple[int, int, int]) -> str:
    """Return "", or what is wrong with the content of a tile's member.

    Args:
        kind: the member's extension.
        content: as it was read.
        member: what the record says of it: offset, size, CRC-32.
    """
    _, size, crc32 = member
    if len(content) != size:
        return f"its {kind!r} is cut short, {len(content)} bytes of {size}"
    if (found := zlib.crc32(content)) != crc32:
        return f"its {kind!r} has changed, CRC-32 {found:08x} where the record says {crc32:08x}"
    return ""


def _parse(content: dict[str, Any]) -> ShardRecord:
    """Make a record of its JSON, believing nothing: places outside the shard and sizes of no image are refused.

    Raises:
        KeyError: a key that is missing.
        ValueError: a value of a wrong kind, or out of its range.
    """
    samples, labelled, size = (whole(content[key], key) for key in ("samples", "labelled", "bytes"))
    file, sha256 = file_name(content["file"], "file"), one_line(content["sha256"], "sha256")
    info = ShardInfo(file, samples, labelled, size, sha256, parse_url(content.get("url", "")))
    tiles = tuple(_tile(entry) for entry in sequence(content["tiles"], "tiles"))
    if len(tiles) != info.samples:
        raise ValueError(f"{len(tiles)} tiles, but 'samples' is {info.samples}")
    histogram = sequence(content["histogram"], "histogram")
    if len(histogram) > 256:
        raise ValueError(f"the histogram has {len(histogram)} ids, at most 256 are possible")
    left_out = mapping(content["left_out"], "left_out")
    return ShardRecord(
        info=info,
        tiles=tiles,
        histogram=tuple(whole(count, "a pixel count") for count in histogram),
        ignored_pixels=whole(content["ignored_pixels"], "ignored_pixels"),
        bands=whole(content["bands"], "bands", 1, MAX_BANDS),
        dtype=one_line(content["dtype"], "dtype"),
        unit=one_line(content["unit"], "unit"),
        quarantine=tuple(mapping(bad, "a bad tile") for bad in sequence(content["quarantine"], "quarantine")),
        left_out={reason: whole(count, "a count of left_out") for reason, count in left_out.items()},
        missing_pixels=whole(content.get("missing_pixels", 0), "missing_pixels"),
        named={
            reason: tuple(one_line(name, "a name of 'named'") for name in sequence(names, "named"))
            for reason, names in mapping(content.get("named", {}), "named").items()
        },
    )


def _tile(content: Any) -> TileRecord:
    key, height, width, members = sequence(content, "a tile", 4)
    found = {}
    for name, member in mapping(members, "a tile's members").items():
        place = sequence(member, f"the member {one_line(name, 'the name of a member')!r}", 3)
        found[name] = Member(*(whole(number, f"a number of {name!r}") for number in place))
    pixels = whole(height, "a tile's height", 1, 2**31), whole(width, "a tile's width", 1, 2**31)
    return TileRecord(one_line(key, "a tile's key"), pixels, found)
