"""Packing a folder of images, with or without masks, into a data set."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mkd.dataset.index import DatasetIndex
from mkd.storage.folder import Folder
from shards.inputs.class_file import ClassFile, encoding_of, read_classfile
from shards.inputs.encode import EncodedTile, encode_tile
from shards.inputs.fingerprint import FileTree, identity, unit_fingerprint
from shards.inputs.image_file import CHECKS, image_member, mask_ids
from shards.inputs.image_list import Item, list_items
from shards.output.build_manifest import Budget, describe_build
from shards.output.builder import Unit, build
from shards.output.dataset_writer import check_name
from shards.output.shard_writer import ShardWriter
from shards.progress import Say, counted, describe

_READERS = 8  # files read at the same time from a remote folder
_Contents = tuple[bytes, bytes | None]  # of image and mask
_NOTES = {  # what is counted: its noun, and what was done
    "converted": ("image", "not 8-bit RGB JPEG or PNG: stored as new PNGs"),
    "alpha_left_out": ("image", "with an alpha band, which was left out: only TIFFs keep more than 3 bands"),
    "stored_as_tif": ("TIFF", "of 16 bits or more than 3 bands: all bands stored in new TIFFs"),
    "no_label": ("mask", "without a single labelled pixel: stored as unlabelled"),
}


def pack(
    source: str | os.PathLike[str],
    classes: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    split: str | None = None,
    keys: str | os.PathLike[str] | None = None,
    only: str | None = None,
    name: str | None = None,
    shard_size: int = 256,
    check: str = "ends",
    workers: int = 1,
    part: str | None = None,
    max_bad_labelled: float = 0.0,
    max_bad: float = 0.001,
    replace: bool = False,
    say: Say = print,
) -> dict[str, Any]:
    """Pack a folder data set into shards; a build that was stopped goes on where it was.

    Args:
        source: folder of the data set, path or URL, laid out as the class file says.
        classes: class file.
        out: path or URL of the new data set.
        split: one of the class file's splits.
        keys: instead of `split`, a file with one image name, stem or relative path a line.
        only: Python slice "A:B" of the images in order of their relative path, after `split` or `keys`.
        name: name of the data set; default: the class file's.
        shard_size: tiles a shard, >= 1.
        check: "ends" looks at header and end marker of images, "decode" decodes them; masks are always decoded.
        workers: processes, >= 1.
        part: "I/N": build only this part; `make_index` merges all.
        max_bad_labelled: share of labelled tiles that may be bad and left out, 0..1.
        max_bad: the same of unlabelled tiles.
        replace: drop an unfinished build of other options or inputs that lies in `out`.
        say: takes each line of the report.

    Returns:
        {"folder", "samples", "labelled", "done_before"}; without the counts for a part.

    Raises:
        ValueError: bad input: one sentence with the file, what was found and what to do.
        OSError: a place that cannot be written.
    """
    folder, classfile = Folder(source), read_classfile(classes)
    title = name or classfile.name
    check_name(title, shard_size)
    if check not in CHECKS:
        raise ValueError(f"--check {check!r}: allowed are {' and '.join(CHECKS)}")
    tree = FileTree(folder)
    items = list_items(tree, classfile, split, keys, only)
    asked = {"command": "pack", "name": title, "shard_size": shard_size, "check": check}
    units, inputs = _units(tree, items, {**asked, "classes": encoding_of(classfile)}, shard_size)
    chosen = {"split": split, "keys": keys and PurePath(keys).name, "slice": only}
    place = str(folder.local.resolve()) if folder.local else folder.url
    origin = {"source": PurePath(place).name, "origin": classfile.source, "inputs_sha256": inputs}
    budget = Budget(max_bad_labelled, max_bad)
    description = describe_build("pack", title, classfile, {**asked, **chosen, **origin}, budget, place)
    work = _Packer(folder.url, classfile, check)
    how: dict[str, Any] = {"workers": workers, "part": part, "replace_other": replace, "say": say}
    built = build(out, description, units, work, **how)
    report = {"folder": str(out), "done_before": built.done_before}
    if built.index is None:
        return report
    _tell(built.index, out, built.done_before, say)
    return report | {"samples": built.index.samples, "labelled": built.index.labelled}


@dataclass(frozen=True)
class _Packer:
    """Packs the images of one shard."""

    source: str
    classfile: ClassFile
    check: str

    def __call__(self, items: Sequence[Item], shard: ShardWriter) -> None:
        for item, contents in _contents(Folder(self.source), items):
            if isinstance(contents, OSError):
                name, reason = str(contents.filename or item.image), contents.strerror or str(contents)
                told = f"cannot be read ({reason}): check the disk or the mount, or copy the file again"
                shard.quarantine(name, told, labelled=item.mask is not None, unread=True)
                continue
            image, mask = contents
            tile = self._tile(item, image, mask, shard)
            if tile is not None:
                shard.add(tile)
                shard.left_out("no_label", int(mask is not None and tile.label is None))

    def _tile(self, item: Item, image: bytes, mask: bytes | None, shard: ShardWriter) -> EncodedTile | None:
        """Make a tile; None when it is bad, which the shard then knows."""
        try:
            member = image_member(image, item.image, self.check)
        except ValueError as error:
            shard.quarantine(item.image, str(error), labelled=mask is not None)
            return None
        ids = None
        if mask is not None:
            ids = self._ids(item, mask, member.size, shard)
            if ids is None:
                return None
        shard.left_out("converted", int(member.converted and member.extension == "png"))
        if member.extension == "tif":
            shard.left_out("stored_as_tif")
        if member.alpha:
            shard.left_out("alpha_left_out")
        meta = {
            "source": item.name,
            "window": None,
            "size": list(member.size),
            "crs": None,
            "transform": None,
        }
        kind = (member.bands, member.dtype)
        return encode_tile(item.key, member.data, member.extension, ids, meta, *kind)

    def _ids(
        self, item: Item, mask: bytes, size: tuple[int, int], shard: ShardWriter
    ) -> NDArray[np.uint8] | None:
        name = str(item.mask)
        try:
            ids, unknown = mask_ids(mask, name, self.classfile)
        except ValueError as error:
            shard.quarantine(name, str(error), labelled=True)
            return None
        if unknown:
            listed = ", ".join(f"{value} ({counted(n, 'pixel')})" for value, n in unknown.items())
            shard.quarantine(name, f"unknown mask values: {listed}", labelled=True, unknown=unknown)
        elif ids.shape != size:
            reason = (
                f"mask {name} is {ids.shape[0]} x {ids.shape[1]} pixels (height x width), its image {item.image} "
                f"{size[0]} x {size[1]}: they must be equal"
            )
            shard.quarantine(name, reason, labelled=True)
        else:
            return ids
        return None


def _contents(folder: Folder, items: Sequence[Item]) -> Iterator[tuple[Item, _Contents | OSError]]:
    """Read image and mask of each item, or tell why not; from a remote folder some at a time."""

    def read(item: Item) -> tuple[Item, _Contents | OSError]:
        try:
            mask = None if item.mask is None else folder.read(item.mask)
            return item, (folder.read(item.image), mask)
        except OSError as error:
            return item, error

    if folder.local is not None:
        yield from map(read, items)
        return
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(items), 4 * _READERS):  # not a whole shard in memory
            yield from pool.map(read, items[start : start + 4 * _READERS])


def _units(
    tree: FileTree, items: list[Item], asked: dict[str, Any], shard_size: int
) -> tuple[list[Unit], str]:
    """Cut the images into shards; also return what identifies all of them."""
    files = [file for item in items for file in (item.image, item.mask) if file is not None]
    stamps, units = tree.stamps(files), []
    for number, start in enumerate(range(0, len(items), shard_size)):
        mine = items[start : start + shard_size]
        told = {file: stamps[file] for item in mine for file in (item.image, item.mask) if file is not None}
        units.append(Unit(number, unit_fingerprint(asked, told), mine))
    return units, identity(asked, stamps)


def _tell(index: DatasetIndex, out: str | os.PathLike[str], done_before: bool, say: Say) -> None:
    if done_before:
        say(f"already packed: {out} ({counted(index.samples, 'tile')})")
        return
    say(f"packed {describe(index)} into {out}")
    found = index.provenance["left_out"]
    for reason, (noun, told) in _NOTES.items():
        if found.get(reason):
            say(f"{counted(found[reason], noun)} {told}")
