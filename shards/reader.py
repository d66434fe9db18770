"""Reading a data set back: members as they are, or decoded samples, in the order of the shards."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mkd.data.index import read_index
from mkd.data.sample import Sample
from shards.encode import Tile, decode

Group = tuple[str, dict[str, bytes]]  # key, and content by what follows its first dot


def read_groups(shard: Path, wanted: str = "") -> Iterator[Group]:
    """Give the members of one shard, those of a tile together.

    Args:
        shard: a tar.
        wanted: read only the content of members with this extension; "" = all.

    Returns:
        Key and {extension: content}, such as {"png": ..., "label.png": ..., "json": ...}.

    Raises:
        ValueError: a damaged or truncated tar.
    """
    key, group = "", dict[str, bytes]()
    try:
        with tarfile.open(shard) as tar:
            for member in tar:
                name, _, extension = member.name.partition(".")
                if name != key and group:
                    yield key, group
                    group = {}
                key = name
                file = tar.extractfile(member) if wanted in ("", extension) else None
                group[extension] = file.read() if file is not None else b""
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(
            f"shard {shard} cannot be read ({error}): copy it again, or pack it again"
        ) from error
    if group:
        yield key, group


def tile_of(key: str, group: dict[str, bytes], shard: Path) -> Tile:
    """Make a tile of its members.

    Raises:
        ValueError: members that are missing, surplus or damaged, naming shard and key.
    """
    extras = set(group) - {"jpg", "png", "label.png", "json"}
    images = [extension for extension in ("jpg", "png") if extension in group]
    if extras or len(images) != 1 or "json" not in group:
        raise ValueError(
            f"{shard}, {key}: members {sorted(group)}, needs one jpg or png, json and maybe label.png"
        )
    label = group.get("label.png")
    return Tile(
        key, group[images[0]], images[0], label, meta_of(key, group, shard), _counts(label, key, shard)
    )


def meta_of(key: str, group: dict[str, bytes], shard: Path) -> dict[str, Any]:
    """Decode a tile's KEY.json.

    Raises:
        ValueError: no JSON object, naming shard and key.
    """
    try:
        meta = json.loads(group["json"])
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{shard}, {key}: KEY.json cannot be read ({error!r}): pack the data set again"
        ) from error
    if not isinstance(meta, dict):
        raise ValueError(
            f"{shard}, {key}: KEY.json holds {type(meta).__name__}, not an object: pack it again"
        )
    return meta


def read_tiles(folder: str | os.PathLike[str]) -> Iterator[Tile]:
    """Give the tiles of a data set, members not decoded (labels are, for their counts)."""
    for shard in read_index(folder).shards:
        path = Path(folder) / shard.file
        for key, group in read_groups(path):
            yield tile_of(key, group, path)


def read_metas(shards: Iterable[Path]) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Give key, KEY.json and whether there is a label, of each tile in some shards; images are skipped."""
    for shard in shards:
        for key, group in read_groups(shard, wanted="json"):
            yield key, meta_of(key, group, shard), "label.png" in group


def read_dataset(folder: str | os.PathLike[str]) -> Iterator[Sample]:
    """Give the decoded tiles of a data set.

    Args:
        folder: a data set.

    Returns:
        Samples: image (H, W, 3) uint8, label (H, W) uint8 or None.

    Raises:
        ValueError: no data set, or a damaged one.
    """
    for tile in read_tiles(folder):
        image = np.asarray(decode(tile.image, f"{tile.key}.{tile.extension}"))
        yield Sample(tile.key, image, label_ids(tile), dict(tile.meta))


def label_ids(tile: Tile) -> NDArray[np.uint8] | None:
    """Decode a tile's label: (H, W) uint8 ids, or None when it has none."""
    if tile.label is None:
        return None
    return np.asarray(decode(tile.label, f"{tile.key}.label.png"))


def _counts(label: bytes | None, key: str, shard: Path) -> NDArray[np.int64] | None:
    if label is None:
        return None
    ids = np.asarray(decode(label, f"{shard}, {key}.label.png"))
    if ids.dtype != np.uint8 or ids.ndim != 2:
        raise ValueError(
            f"{shard}, {key}.label.png holds {ids.dtype} {ids.shape}, needs uint8 (H, W): pack it again"
        )
    return np.bincount(ids.ravel(), minlength=256)
