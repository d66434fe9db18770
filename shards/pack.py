"""Packing a folder of images, with or without masks, into a data set."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mkd.data.index import read_index
from shards.classfile import ClassFile, read_classfile
from shards.encode import Unknown, image_member, mask_ids, tile_from
from shards.listing import Item, list_items
from shards.report import Say, counted, describe, progress, some
from shards.writer import ShardWriter, fingerprint, is_done


@dataclass
class UnknownValues:
    """Mask values that the class file does not know, gathered over all masks before anyone is told."""

    pixels: Counter[int | tuple[int, int, int]] = field(default_factory=Counter)
    files: dict[int | tuple[int, int, int], list[str]] = field(default_factory=dict)

    def add(self, unknown: Unknown, file: str) -> None:
        """Note the unknown values of one mask."""
        self.pixels.update(unknown)
        for value in unknown:
            self.files.setdefault(value, []).append(file)

    def check(self, classfile: ClassFile) -> None:
        """Raise a ValueError that lists values, pixels and files, when there are any."""
        if not self.pixels:
            return
        kind = "colours" if classfile.masks == "rgb" else "ids"
        listed = [
            f"{value}: {counted(pixels, 'pixel')} in {counted(len(self.files[value]), 'file')} "
            f"({some(self.files[value], 2)})"
            for value, pixels in self.pixels.most_common()
        ]
        place = "palette or ignore_colours" if classfile.masks == "rgb" else "ids (map to 255 to ignore)"
        raise ValueError(
            f"masks have {len(listed)} {kind} that {classfile.path} does not know: {'; '.join(listed[:8])}"
            f"{f'; and {len(listed) - 8} more' if len(listed) > 8 else ''}. Add them to {place}, or correct the masks"
        )


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
    asked = {"command": "pack", "name": name or classfile.name, "shard_size": shard_size}
    files = [file for item in items for file in (item.image, item.mask) if file is not None]
    inputs = fingerprint(asked, [("classes", Path(classes)), *((file, root / file) for file in files)])
    if is_done(out, inputs):
        index = read_index(out)
        say(f"already packed: {out} ({counted(index.samples, 'tile')})")
        return {"folder": str(out), "samples": index.samples, "labelled": index.labelled, "done_before": True}
    chosen = {"split": split, "keys": keys and Path(keys).name, "slice": part}
    origin = {"source": root.resolve().name, "origin": classfile.source, "inputs_sha256": inputs}
    with ShardWriter(out, asked["name"], classfile.classes, classfile.palette, shard_size) as writer:
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
                f"mask {root / item.mask} is {ids.shape[0]} x {ids.shape[1]} pixels (height x width), its image "
                f"{image.size[0]} x {image.size[1]}: they must be equal"
            )
        converted += image.converted
        meta = {"source": item.name, "window": None, "size": list(image.size), "crs": None, "transform": None}
        writer.add(tile_from(item.key, image.data, image.extension, ids, meta))
    unknown.check(classfile)
    return converted
