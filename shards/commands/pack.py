"""Packing a folder of images, with or without masks, into a data set."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from mkd.dataset.index import DatasetIndex
from mkd.storage.folder import Folder
from shards.commands.image_packer import ImagePacker
from shards.commands.input_notes import note_labels, note_unpacked_files, split_pattern
from shards.inputs.class_file import ClassFile, content_fields, read_classfile, unlabelled_classfile
from shards.inputs.fingerprint import FileTree, identity, unit_fingerprint
from shards.inputs.image_list import ImageItem, ImageSelection, list_items
from shards.inputs.images.image_file import CHECKS
from shards.output.build_manifest import describe_build
from shards.output.build_options import BuildOptions
from shards.output.builder import Unit, build
from shards.output.dataset_writer import check_name
from shards.progress import pluralize, summarize

_log = logging.getLogger(__name__)

_NOTES = {  # what is counted: its noun, and what was done
    "turned": (
        "image",
        "turned by EXIF orientation: stored upright, as viewers show it, as a new PNG or TIFF",
    ),
    "converted": ("image", "not 8-bit RGB JPEG or PNG: stored as new PNGs"),
    "alpha_left_out": (
        "image",
        "with an alpha band, which was left out: its zeros mean no data; if it is data, give --bands 1,2,3,4",
    ),
    "missing": ("image", "with pixels without data (alpha, no-data value or mask): never trained on"),
    "control_points": (
        "image",
        "with control points in place of a transform, which are not carried: no place on Earth, and split cannot know "
        "which share ground; gdalwarp places them",
    ),
    "stored_as_tif": ("TIFF", "of 16 bits or more than 3 bands: all bands stored in new TIFFs"),
    "assigned_pixels": (
        "pixel",
        "of the masks have a value or colour that the class file does not list: taken as it says (unknown_colours, "
        "lossy_masks)",
    ),
    "lossy_masks": (
        "mask",
        "of a lossy coding: each value taken as the nearest known one; look at some with sample",
    ),
    "masks_with_holes": (
        "mask",
        "with pixels that the mask itself calls missing (no-data value, mask or alpha): ignored, whatever they hold; "
        "if they are a class, unset that (gdal_edit.py -unsetnodata FILE) or save the mask without alpha",
    ),
    "no_label": ("mask", "without a single labelled pixel: stored as unlabelled"),
}


def pack(
    source: str | os.PathLike[str],
    classes: str | os.PathLike[str] | ClassFile,
    options: BuildOptions,
    selection: ImageSelection = ImageSelection(),  # noqa: B008 - frozen
    check: str = "ends",
    bands: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Pack a folder data set into shards; a build that was stopped continues.

    Args:
        source: folder of the data set, path or URL, laid out as the class file says.
        classes: class file, its path or what it says.
        options: where the data set goes, and how it is built.
        selection: which of the images; default: all.
        check: "ends" looks at header and end marker of images, "decode" decodes them; masks are always decoded.
        bands: of the images that are kept, counted from 1: data, even where a file calls one alpha; None = all but
            alpha.

    Returns:
        {"folder", "samples", "labelled", "done_before"}; without the counts for a part.

    Raises:
        ValueError: bad input: one sentence with the file, what was found and what to do.
        OSError: a place that cannot be written.
    """
    # Check the options, before anything is listed or written.
    folder, classfile = Folder(source), classes if isinstance(classes, ClassFile) else read_classfile(classes)
    name = options.name or classfile.name
    check_name(name, options.shard_size)
    if check not in CHECKS:
        raise ValueError(f"--check {check!r}: allowed are {' and '.join(CHECKS)}")
    # List the images and cut them into shards; options and inputs identify the data set.
    tree = FileTree(folder)
    note_unpacked_files(tree, classfile)
    items = list_items(tree, classfile, selection)
    asked = {"command": "pack", "name": name, "shard_size": options.shard_size, "check": check}
    if bands is not None:
        asked["bands"] = list(bands)
    units, inputs = _plan_units(tree, items, {**asked, "classes": content_fields(classfile)}, options)
    # Describe the build, with what the index will tell of its origin.
    keys = selection.keys and PurePath(selection.keys).name
    chosen = {"split": selection.split, "keys": keys, "slice": selection.image_slice}
    place = str(folder.local.resolve()) if folder.local else folder.url
    origin = {"source": PurePath(place).name, "origin": classfile.source, "inputs_sha256": inputs}
    manifest = describe_build("pack", classfile, options, {**asked, **chosen, **origin}, place)
    # Build the shards and report; a part has no index yet.
    packer = ImagePacker(folder.url, classfile, check, options.max_pixels, bands)
    built = build(manifest, units, packer, options)
    report = {"folder": str(options.out), "done_before": built.done_before}
    if built.index is None:
        return report
    _log_result(built.index, options.out, built.done_before)
    return report | {"samples": built.index.samples, "labelled": built.index.labelled}


def pack_inputs(
    source: str | None, classes: str | None, unlabelled: Sequence[str] | None, split: str | None
) -> tuple[str, str | ClassFile]:
    """Return folder and class file; a pattern of images without labels stands for both.

    Args:
        source: folder as asked for.
        classes: class file as asked for.
        unlabelled: the words after --unlabelled, one pattern.
        split: a split of the class file.

    Raises:
        ValueError: neither, both, or a pattern that the shell has filled in.
    """
    if unlabelled is None:
        if source is None or classes is None:
            raise ValueError(
                "give --source and --classes, or --unlabelled 'DIR/*.jpg' for images without labels"
            )
        return source, classes
    if source is not None or classes is not None or split is not None:
        raise ValueError("--unlabelled needs no --source, --classes or --split: leave them out")
    if len(unlabelled) > 1 or "*" not in unlabelled[0]:
        raise ValueError(
            f"--unlabelled takes one pattern, in single quotes, such as 'DIR/*.jpg', found {unlabelled[0]}"
        )
    folder, images = split_pattern(unlabelled[0])
    return folder or ".", unlabelled_classfile(images)


def _plan_units(
    tree: FileTree, items: list[ImageItem], asked: dict[str, Any], options: BuildOptions
) -> tuple[list[Unit], str]:
    """Cut the images into shards; also return what identifies all of them."""
    stamps, units = tree.stamps(file for item in items for file in item.files), []
    for number, start in enumerate(range(0, len(items), options.shard_size)):
        own_items = items[start : start + options.shard_size]
        own_stamps = {file: stamps[file] for item in own_items for file in item.files}
        units.append(Unit(number, unit_fingerprint(asked, own_stamps, *options.limit_given), own_items))
    return units, identity(asked, stamps)


def _log_result(index: DatasetIndex, out: str | os.PathLike[str], done_before: bool) -> None:
    if done_before:
        _log.info("already packed: %s (%s)", out, pluralize(index.samples, "tile"))
        return
    _log.info("packed %s into %s", summarize(index), out)
    left_out = index.provenance["left_out"]
    for reason, (noun, text) in _NOTES.items():
        if left_out.get(reason):
            _log.info("%s %s", pluralize(left_out[reason], noun), text)
    note_labels(index)
