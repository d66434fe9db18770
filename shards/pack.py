"""Packing a folder of images, with or without masks, into a data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mkd.data.index import read_index
from shards.classfile import ClassFile, read_classfile
from shards.encode import image_member, mask_ids, tile_from
from shards.inputs import fingerprint, is_done
from shards.listing import Item, list_items
from shards.report import Say, counted, describe, progress
from shards.unknown import UnknownValues
from shards.writer import ShardWriter


def pack(
    source: str | os.PathLike[str],
    classes: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    split: str | None = None,
    keys: str | os.PathLike[str] | None = None,
    part: str | None = None,
    name: str | None = None,
    shard_size: int = 256,
    say: Say = print,
) -> dict[str, Any]:
    """Pack a folder data set into shards.

    Args:
        source: folder of the data set, laid out as the class file says.
        classes: class file.
        out: folder of the new data set; no shard is left there when packing fails.
        split: one of the class file's splits.
        keys: instead of `split`, a file with one image name, stem or relative path a line.
        part: Python slice "A:B" of the images in order of their relative path, after `split` or `keys`.
        name: name of the data set; default: the class file's.
        shard_size: tiles a shard, >= 1.
        say: takes each line of the report.

    Returns:
        {"folder", "samples", "labelled", "done_before"}.

    Raises:
        ValueError: bad input: one sentence with the file, what was found and what to do.
        OSError: a place that cannot be written.
    """
    root, classfile = Path(source), read_classfile(classes)
    items = list_items(root, classfile, split, keys, part)
    title = name or classfile.name
    asked = {"command": "pack", "name": title, "shard_size": shard_size}
    files = [file for item in items for file in (item.image, item.mask) if file is not None]
    inputs = fingerprint(asked, [("classes", Path(classes)), *((file, root / file) for file in files)])
    if is_done(out, inputs):
        index = read_index(out)
        say(f"already packed: {out} ({counted(index.samples, 'tile')})")
        return {"folder": str(out), "samples": index.samples, "labelled": index.labelled, "done_before": True}
    chosen = {"split": split, "keys": keys and Path(keys).name, "slice": part}
    origin = {"source": root.resolve().name, "origin": classfile.source, "inputs_sha256": inputs}
    with ShardWriter(out, title, classfile.classes, classfile.palette, shard_size) as writer:
        converted = _add_all(writer, root, classfile, items)
        index = writer.finish({**asked, **chosen, **origin})
    say(f"packed {describe(index)} into {out}")
    if converted:
        say(f"{counted(converted, 'image')} not 8-bit RGB JPEG or PNG: stored as new PNGs")
    empty = sum(item.mask is not None for item in items) - index.labelled
    if empty:
        say(f"{counted(empty, 'mask')} without a single labelled pixel: stored as unlabelled")
    return {"folder": str(out), "samples": index.samples, "labelled": index.labelled, "done_before": False}


def _add_all(writer: ShardWriter, root: Path, classfile: ClassFile, items: list[Item]) -> int:
    """Add one tile an image; after the first unknown mask value only look for more of them."""
    unknown, converted = UnknownValues(), 0
    for item in progress(items, len(items), "pack"):
        ids = None
        if item.mask is not None:
            ids, values = mask_ids(root / item.mask, classfile)
            unknown.add(values, item.mask)
        if unknown.pixels:
            continue
        image = image_member(root / item.image)
        if ids is not None and ids.shape != image.size:
            raise ValueError(
                f"mask {root / str(item.mask)} is {ids.shape[0]} x {ids.shape[1]} pixels (height x width), "
                f"its image {image.size[0]} x {image.size[1]}: they must be equal"
            )
        converted += image.converted
        meta = {"source": item.name, "window": None, "size": list(image.size), "crs": None, "transform": None}
        writer.add(tile_from(item.key, image.data, image.extension, ids, meta))
    unknown.check(classfile)
    return converted
