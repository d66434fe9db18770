"""Reads the members of a data set's tiles, in the order of the shards."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mkd.dataset.index import ShardInfo, read_index
from mkd.dataset.shard_list import shard_place, shard_url
from mkd.dataset.shard_record import Member, adopted_meta, member_fault, read_matching_record
from mkd.documents import mapping, parse_json
from mkd.label_coding import LabelCoding
from mkd.storage.folder import Folder
from shards.inputs.encode import EncodedTile, encode_png
from shards.reading.pixels import label_pixels

Kind = tuple[int, str]  # bands and type of images
Group = tuple[str, dict[str, bytes]]  # key, and content by what follows its first dot
_IMAGES = ("jpg", "png", "tif")


def read_groups(folder: Folder, info: ShardInfo, wanted: str = "") -> Iterator[Group]:
    """Give the members of one shard, those of a tile together; each is compared with the shard's record.

    A tile of an adopted shard gets a KEY.json.

    Args:
        folder: the data set.
        info: what its index says of the shard.
        wanted: read only the content of members with this extension; "" = all.

    Returns:
        Key and {extension: content}, such as {"png": ..., "label.png": ..., "json": ...}.

    Raises:
        ValueError: a record of another build, or a member that is not what was packed, naming shard and key.
    """
    name, record = shard_url(folder, info), read_matching_record(folder, info)
    place, file_name = shard_place(folder, info)
    advice = f"run 'python -m shards verify {folder}', copy the shard again or build it again"
    try:
        with place.open(file_name, info.bytes) as file:
            for tile in record.tiles:
                key, group = tile.key, dict[str, bytes]()
                for kind, member in tile.members.items():
                    read = wanted in ("", kind)
                    group[kind] = _content(file, member) if read else b""
                    if fault := member_fault(kind, group[kind], member) if read else "":
                        raise ValueError(f"{name}, {key}: {fault}; {advice}")
                if info.url and "json" not in group:
                    group["json"] = adopted_meta(tile)
                yield key, group
    except OSError as error:
        raise ValueError(f"shard {name} cannot be read ({error.strerror or error}): {advice}") from None


def _content(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)


def tile_of(
    key: str,
    group: dict[str, bytes],
    shard: str,
    kind: Kind = (3, "uint8"),
    coding: LabelCoding | None = None,
) -> EncodedTile:
    """Make a tile of its members; its label holds class ids, whatever the data set's do.

    Args:
        key: the tile's.
        group: content by extension.
        shard: what to call the shard in an error.
        kind: bands and type of the data set's images.
        coding: `labels` of the index.

    Raises:
        ValueError: members that are missing, surplus or damaged, naming shard and key.
    """
    extras = set(group) - {*_IMAGES, "label.png", "valid.png", "json"}
    images = [extension for extension in _IMAGES if extension in group]
    if extras or len(images) != 1 or "json" not in group:
        raise ValueError(
            f"{shard}, {key}: members {sorted(group)}, needs one jpg, png or tif, json and maybe label.png, valid.png"
        )
    label, meta = group.get("label.png"), meta_of(key, group, shard)
    if label is not None and coding is not None:
        label = encode_png(label_pixels(label, f"{shard}, {key}.label.png", coding=coding))
    valid, counts = group.get("valid.png"), _counts(label, key, shard)
    missing = 0 if valid is None else int((label_pixels(valid, f"{shard}, {key}.valid.png") == 0).sum())
    return EncodedTile(key, group[images[0]], images[0], label, meta, counts, *kind, valid, missing)


def meta_of(key: str, group: dict[str, bytes], shard: str) -> dict[str, Any]:
    """Decode a tile's KEY.json.

    Raises:
        ValueError: no JSON object, naming shard and key.
    """
    try:
        return mapping(parse_json(group["json"]), "KEY.json")
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{shard}, {key}: KEY.json cannot be read ({error}): pack the data set again"
        ) from None


def read_tiles(folder: str | os.PathLike[str] | Folder) -> Iterator[EncodedTile]:
    """Give the tiles of a data set, members not decoded (labels are, for their counts)."""
    place = folder if isinstance(folder, Folder) else Folder(folder)
    index = read_index(place)
    for shard in index.shards:
        for key, group in read_groups(place, shard):
            yield tile_of(key, group, shard_url(place, shard), (index.bands, index.dtype), index.labels)


def read_metas(folder: Folder, shards: Iterable[ShardInfo]) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Give key, KEY.json and whether there is a label, of each tile in some shards; images are skipped."""
    for shard in shards:
        for key, group in read_groups(folder, shard, wanted="json"):
            yield key, meta_of(key, group, shard_url(folder, shard)), "label.png" in group


def _counts(label: bytes | None, key: str, shard: str) -> NDArray[np.int64] | None:
    if label is None:
        return None
    return np.bincount(label_pixels(label, f"{shard}, {key}.label.png").ravel(), minlength=256)
