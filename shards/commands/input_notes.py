"""What is left out of a data set, and why, told before and after a build: nothing is dropped in silence."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np

from mkd.dataset.index import DatasetIndex
from mkd.dataset.label_notes import label_notes
from mkd.dataset.shard_record import read_matching_record
from mkd.labels import IGNORE
from mkd.storage.folder import Folder
from shards.inputs.class_file import ClassFile, mask_name
from shards.inputs.encode import tile_key
from shards.inputs.fingerprint import FileTree, nfc
from shards.inputs.mask_file import ids_from_values
from shards.inputs.name_patterns import glob_to_regex
from shards.inputs.scenes.orthomosaics import Orthomosaic, PathLike
from shards.inputs.scenes.windows import grid_size
from shards.progress import list_first, pluralize

_log = logging.getLogger(__name__)

_MOST_NAMES = 10


def note_labels(index: DatasetIndex) -> None:
    """Tell of classes without a pixel and of many ignored pixels."""
    for note in label_notes(index):
        _log.warning("note: %s", note)


def note_unpacked_files(tree: FileTree, classfile: ClassFile) -> None:
    """Tell of images that the class file's pattern leaves out by their spelling, and of masks without an image."""
    images = tree.matching(classfile.images)
    asked = [] if classfile.mask is None else [mask_name(classfile, image) for image in images]
    claimed = {nfc(name) for name in [*images, *asked]}
    left_out = [name for name in tree.similar(classfile.images) if nfc(name) not in claimed]
    _note_spelling(
        left_out, f"{classfile.images!r} of {classfile.path}", "rename them, or write '*' for the ending"
    )
    _note_mask_files(tree, [*images, *asked])
    folders = {name.rpartition("/")[0] for name in asked}
    last = "" if classfile.mask is None else re.sub(r"\{[^{}]*\}", "*", classfile.mask.rpartition("/")[2])
    _note_unused_masks(_files_like(tree, folders, last), claimed, "")


def note_scenes(
    source: PathLike | Sequence[PathLike],
    labels: object,
    scenes: Sequence[Orthomosaic],
    classfile: ClassFile,
    size: int,
) -> None:
    """Tell of what `tile` will leave out of its rasters: files, label values, small scenes."""
    note_uncut_files(source, labels, scenes)
    note_label_rasters(scenes, classfile)
    note_label_bands(scenes, classfile)
    note_small_scenes(scenes, size)


def note_uncut_files(
    source: PathLike | Sequence[PathLike], labels: object, scenes: Sequence[Orthomosaic]
) -> None:
    """Tell of rasters that a pattern leaves out by their spelling, and of label rasters without an image.

    Args:
        source: as given to `tile`.
        labels: as given to `tile`.
        scenes: what was found.
    """
    entries = [str(source)] if isinstance(source, (str, os.PathLike)) else [str(entry) for entry in source]
    claimed = {nfc(path) for scene in scenes for path in (scene.image, scene.label) if path is not None}
    for entry in entries:
        if "*" in entry:
            fixed, rest = split_pattern(entry)
            found = FileTree(Folder(fixed.rstrip("/") or fixed or ".")).similar(rest)
            left_out = [path for path in (f"{fixed}{name}" for name in found) if nfc(path) not in claimed]
            _note_spelling(left_out, f"--source {entry!r}", "rename them, or give this pattern too")
    pattern = labels[0] if isinstance(labels, (list, tuple)) and len(labels) == 1 else labels
    if not isinstance(pattern, (str, os.PathLike)) or "{" not in str(pattern):
        return
    last = re.sub(r"\{[^{}]*\}", "*", str(pattern).rpartition("/")[2])
    for place in sorted({str(scene.label).rpartition("/")[0] for scene in scenes if scene.label is not None}):
        prefix = f"{place}/" if place else ""
        _note_unused_masks(_files_like(FileTree(Folder(place or ".")), [""], last), claimed, prefix)


def split_pattern(pattern: str) -> tuple[str, str]:
    """Cut a pattern with stars into its fixed folders, with their slash, and the rest."""
    fixed = pattern.partition("*")[0]
    cut = fixed.rfind("/") + 1
    return pattern[:cut], pattern[cut:]


def note_label_rasters(scenes: Sequence[Orthomosaic], classfile: ClassFile) -> None:
    """Tell of label rasters whose no-data value is a class of the class file, as QGIS writes 0, and of lossy ones."""
    lossy = [
        PurePosixPath(scene.label).name for scene in scenes if scene.label is not None and scene.label_coding
    ]
    if lossy:
        _log.warning(
            "note: %s of a lossy coding, each value taken as the nearest known one: %s",
            pluralize(len(lossy), "label raster"),
            list_first(lossy, _MOST_NAMES),
        )
    by_value: dict[float, list[str]] = {}
    for scene in scenes:
        if scene.label is not None and scene.label_nodata is not None:
            by_value.setdefault(scene.label_nodata, []).append(PurePosixPath(scene.label).name)
    for value, names in by_value.items():
        target = _class_of(value, classfile)
        if target is not None:
            _log.warning(
                "note: the no-data value %g of %s is class %r of %s: these pixels are ignored; if they are that class, "
                "unset the value (gdal_edit.py -unsetnodata FILE), if they are none, write %s in the class file",
                value,
                list_first(names, _MOST_NAMES),
                classfile.classes[target],
                classfile.path,
                "another colour" if classfile.masks == "rgb" else f"{value:g}: 255 among its ids",
            )


def note_label_bands(scenes: Sequence[Orthomosaic], classfile: ClassFile) -> None:
    """Tell of label rasters with bands that are not read: class ids lie in the first one."""
    if classfile.masks == "rgb":
        return
    several = [PurePosixPath(str(scene.label)).name for scene in scenes if scene.label_bands > 1]
    if several:
        _log.warning(
            "note: %s of several bands, of which band 1 is taken for the class ids and the others are not read: %s; "
            "colours need masks: rgb",
            pluralize(len(several), "label raster"),
            list_first(several, _MOST_NAMES),
        )


def note_small_scenes(scenes: Sequence[Orthomosaic], size: int) -> None:
    """Tell of rasters that are smaller than a tile."""
    small = [scene for scene in scenes if 0 in grid_size(scene.shape, size, 1)]
    if small and len(small) < len(scenes):
        listed = (
            f"{PurePosixPath(scene.image).name} ({scene.shape[0]} x {scene.shape[1]})" for scene in small
        )
        _log.warning(
            "note: %s smaller than a tile of %d x %d pixels: none of %s (height x width); a smaller --size takes them",
            "1 scene is" if len(small) == 1 else f"{len(small):,} scenes are",
            size,
            size,
            list_first(listed, _MOST_NAMES),
        )


def note_empty_scenes(
    index: DatasetIndex, out: str | os.PathLike[str], scenes: Sequence[Orthomosaic], size: int
) -> None:
    """Tell of rasters that are large enough and yet gave no tile: no data, or one colour, everywhere."""
    left_out = index.provenance["left_out"]
    if len(scenes) < 2 or not (left_out.get("no_data") or left_out.get("blank") or any(_quarantined(index))):
        return  # each window became a tile
    folder = Folder(out)
    keys = (tile.key for shard in index.shards for tile in read_matching_record(folder, shard).tiles)
    seen = {key.rsplit("_", 2)[0] for key in keys}
    empty = [
        PurePosixPath(scene.image).name
        for scene in scenes
        if tile_key(scene.name) not in seen and 0 not in grid_size(scene.shape, size, 1)
    ]
    if empty:
        _log.warning(
            "note: %s no tile, as all are without enough data, of one colour or bad: %s",
            "1 scene gave" if len(empty) == 1 else f"{len(empty):,} scenes gave",
            list_first(empty, _MOST_NAMES),
        )


def _quarantined(index: DatasetIndex) -> Iterable[int]:
    quarantined: Mapping[str, int] = index.provenance.get("quarantined") or {}
    return quarantined.values()


def _class_of(value: float, classfile: ClassFile) -> int | None:
    """Return the class that a label raster's no-data value would have."""
    if classfile.masks == "rgb":
        if not (value == int(value) and 0 <= value <= 255):
            return None
        values = np.full((1, 1, 3), int(value), np.uint8)
    else:
        values = np.full((1, 1), value, np.float64)
    found = ids_from_values(values, classfile)
    return None if found.unknown or found.ids[0, 0] == IGNORE else int(found.ids[0, 0])


def _files_like(tree: FileTree, folders: Iterable[str], last: str) -> list[str]:
    """List the files of some folders whose names match a pattern."""
    if not last or re.search(r"[?\[\]]", last):
        return []
    expression = glob_to_regex(nfc(last))
    return [
        f"{place}/{name}" if place else name
        for place in sorted(folders)
        for name in tree.files(place)
        if expression.fullmatch(nfc(name))
    ]


def _note_spelling(names: Sequence[str], pattern: str, advice: str) -> None:
    if names:
        _log.warning(
            "note: %s left out, as capitals or the spelling of the ending differ from %s: %s; %s",
            "1 file is" if len(names) == 1 else f"{len(names):,} files are",
            pattern,
            list_first(names, _MOST_NAMES),
            advice,
        )


def _note_mask_files(tree: FileTree, names: Iterable[str]) -> None:
    """Tell of masks in files of their own, which say where there is data; GDAL reads them, Pillow does not."""
    found = sorted(tree.stamps(f"{name}.msk" for name in names))
    if found:
        _log.warning(
            "note: %s in a file of its own, which pack does not read, so that what lies below counts as data: %s; cut "
            "these images with tile, or store the masks inside (GDAL_TIFF_INTERNAL_MASK)",
            pluralize(len(found), "mask"),
            list_first(found, _MOST_NAMES),
        )


def _note_unused_masks(names: Sequence[str], claimed: set[str], prefix: str) -> None:
    unused = [name for name in (f"{prefix}{name}" for name in names) if nfc(name) not in claimed]
    if unused:
        _log.warning(
            "note: %s without an image: %s", pluralize(len(unused), "mask"), list_first(unused, _MOST_NAMES)
        )
