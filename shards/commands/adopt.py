"""Adopting WebDataset shards that others wrote: records and an index of tars that stay where they lie."""

from __future__ import annotations

import logging
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mkd.dataset.index import DatasetIndex
from mkd.dataset.shard_record import TileRecord
from mkd.image_header import BYTES_A_PIXEL
from mkd.label_coding import LabelCoding
from mkd.labels import IGNORE
from mkd.storage.folder import split_url
from shards.commands.input_notes import note_labels
from shards.inputs.class_file import ClassFile, content_fields, read_classfile, unlabelled_classfile
from shards.inputs.encode import tile_key
from shards.inputs.fingerprint import Stamp, identity, unit_fingerprint
from shards.inputs.images.image_file import CHECKS
from shards.inputs.mask_file import class_ids
from shards.inputs.stored_tile import label_coding, stored_image, stored_label
from shards.inputs.tar_list import AdoptedTar, expand, named_tars, tar_stamps
from shards.output.build_manifest import describe_build
from shards.output.build_options import BuildOptions
from shards.output.builder import Unit, build
from shards.output.dataset_writer import check_name
from shards.output.shard_writer import ShardWriter
from shards.output.unknown_values import list_unknown
from shards.progress import pluralize, summarize
from shards.reading.tar_stream import ForeignTile, HashingReader, foreign_tiles

_log = logging.getLogger(__name__)

_NOTES = {  # what is counted: its noun, and what was done
    "no_image": ("tile", "without an image left out (--image-ext says which members are images)"),
    "no_label": (
        "tile",
        "without a label (--label-ext says which members are labels): data.labelled refuses them, and --labelled-only "
        "leaves them out",
    ),
    "no_label_pixel": ("tile", "with a label that ignores every pixel: treated as one without a label"),
    "duplicate_keys": ("tile", "with the key of another tile of its shard left out"),
    "several_images": (
        "tile",
        "with several images: the first is taken; if another is the label, give --label-ext",
    ),
    "several_labels": ("tile", "with several labels: the first is taken"),
    "other_content": ("image", "of another kind than the name says: read as what it is"),
    "unread_members": ("member", "not read, of other extensions"),
    "assigned_pixels": (
        "pixel",
        "of the labels have a colour that the class file does not list: ignored, as unknown_colours says",
    ),
    "odd_members": (
        "member",
        "passed over, as webdataset does: links, folders and names without an extension",
    ),
}
_SPELLINGS = {"jpg": "jpg", "jpeg": "jpg", "png": "png", "tif": "tif", "tiff": "tif"}


@dataclass(frozen=True)
class MemberNames:
    """Which members of a tile are read.

    Attributes:
        image_ext: extensions of images, the first one of a tile is taken; what is in `label_ext` too is a label.
        label_ext: extensions of labels, likewise.
        labelled_only: leave out tiles without a label.
    """

    image_ext: Sequence[str] = ("jpg", "jpeg", "png", "tif", "tiff")
    label_ext: Sequence[str] = ("label.png", "seg.png", "mask.png")
    labelled_only: bool = False


def adopt(
    urls: Sequence[str],
    classes: str | os.PathLike[str] | None,
    options: BuildOptions,
    names: MemberNames = MemberNames(),
    check: str = "ends",
) -> dict[str, Any]:
    """Make a data set of WebDataset shards where they lie; a build that was stopped continues.

    Each tar is read once. Records and index go to the new folder, no tile is copied.

    Args:
        urls: paths and URLs of tars, with braces as webdataset expands them.
        classes: class file; None = labels are not read.
        options: where the data set goes, and how it is built; `shard_size` has no use.
        names: which members of a tile are image and label.
        check: "ends" looks at header and end marker of images, "decode" decodes them; labels are always decoded.

    Returns:
        {"folder", "samples", "labelled", "done_before"}; without the counts for a part.

    Raises:
        ValueError: bad input: one sentence with the file, what was found and what to do.
        OSError: a place that cannot be written.
    """
    # Check the options, before anything is listed or written.
    classfile = unlabelled_classfile("*") if classes is None else read_classfile(classes)
    coding = label_coding(classfile)
    name = options.name or classfile.name
    check_name(name, options.shard_size)
    if check not in CHECKS:
        raise ValueError(f"--check {check!r}: allowed are {' and '.join(CHECKS)}")
    # List the tars; options and inputs identify the data set.
    stamps = tar_stamps(expand(urls))
    labels = [] if classes is None else [ext.lower() for ext in names.label_ext]
    images = [ext.lower() for ext in names.image_ext if ext.lower() not in labels]
    asked: dict[str, Any] = {"command": "adopt", "name": name, "check": check, "image_ext": images}
    asked |= {"label_ext": labels, "labelled_only": names.labelled_only}
    units, inputs = _plan_units(stamps, {**asked, "classes": content_fields(classfile)}, options)
    # Build the records and report; a part has no index yet.
    place = " ".join(urls)
    origin = {"source": place, "origin": classfile.source, "inputs_sha256": inputs}
    manifest = describe_build("adopt", classfile, options, {**asked, **origin}, place)
    adopter = _Adopter(classfile, coding, images, labels, names.labelled_only, check, options.max_pixels)
    built = build(replace(manifest, labels=coding), units, adopter, options)
    report = {"folder": str(options.out), "done_before": built.done_before}
    if built.index is None:
        return report
    _log_result(built.index, options.out, built.done_before)
    return report | {"samples": built.index.samples, "labelled": built.index.labelled}


@dataclass(frozen=True)
class _Adopter:
    """Reads one tar, and enters its tiles into a shard's record."""

    classfile: ClassFile
    coding: LabelCoding | None
    images: Sequence[str]
    labels: Sequence[str]
    labelled_only: bool
    check: str
    max_pixels: int

    def __call__(self, tar: AdoptedTar, shard: ShardWriter) -> None:
        folder, name = split_url(tar.url)
        seen, odd = set[str](), list[str]()
        with folder.open(name, tar.size) as plain:
            file = HashingReader(plain)
            for tile in self._tiles(file, tar, odd, remote=folder.local is None):
                key = tile_key(f"{tar.name}/{tile.key}")
                if key in seen:
                    shard.left_out("duplicate_keys", example=f"{tar.name}:{tile.key}")
                else:
                    seen.add(key)
                    self._take(key, tile, f"{tar.name}:{tile.key}", shard)
            file.drain()
        for member in odd:
            shard.left_out("odd_members", example=f"{tar.name}:{member}")
        shard.adopt(tar.url, file.size, file.digest.hexdigest())

    def _tiles(
        self, file: HashingReader, tar: AdoptedTar, odd: list[str], remote: bool
    ) -> Iterator[ForeignTile]:
        """Yield the tiles of a tar; a damaged one is one sentence."""
        most = BYTES_A_PIXEL * self.max_pixels + (64 << 20)
        try:
            yield from foreign_tiles(file, tar.size, {*self.images, *self.labels}, most, odd)
        except (tarfile.TarError, EOFError, OverflowError, ValueError) as error:
            if remote and isinstance(error, ValueError):  # a place that refuses, or does not answer
                raise
            raise ValueError(
                f"{tar.url} cannot be read as a tar ({error}): copy it again, unpack it if it is compressed, or leave "
                "it out"
            ) from None

    def _take(self, key: str, tile: ForeignTile, name: str, shard: ShardWriter) -> None:
        """Enter one tile, or say why not."""
        for extension in tile.unwanted:
            shard.left_out("unread_members", example=extension)
        images = [extension for extension in self.images if extension in tile.members]
        labels = [extension for extension in self.labels if extension in tile.members]
        if not images:
            shard.left_out("no_image", example=name)
            return
        for noun, several in (("images", images), ("labels", labels)):
            if len(several) > 1:
                shard.left_out(f"several_{noun}", example=f"{name} ({', '.join(several)})")
        # Look at the bytes; what training cannot read is listed.
        (place, data), counts = tile.members[images[0]], None
        try:
            if tile.twice:
                raise ValueError(
                    f"{name} has {tile.twice[0]!r} twice, which webdataset refuses too: write it again"
                )
            image = stored_image(data, f"{name}.{images[0]}", self.check, self.max_pixels)
            found = {image.extension: place}
            if labels:
                label, data = tile.members[labels[0]]
                ids, counts = stored_label(
                    data, f"{name}.{labels[0]}", self.classfile, self.coding, image.size, self.max_pixels
                )
                if ids.assigned:
                    shard.left_out("assigned_pixels", ids.assigned, example=name)
                if ids.unknown:
                    reason = f"unknown mask values: {list_unknown(ids.unknown)}"
                    shard.quarantine(
                        f"{name}.{labels[0]}", reason, True, ids.unknown, classes=class_ids(ids.ids)
                    )
                    return
        except ValueError as error:
            shard.quarantine(name, str(error), labelled=bool(labels))
            return
        # Enter the tile, its members called as ours are.
        if counts is not None and counts[:IGNORE].any():
            found["label.png"] = label
        elif self.labels:
            counts, reason = None, "no_label_pixel" if labels else "no_label"
            shard.left_out(reason, example=name)
            if self.labelled_only:
                return
        shard.left_out(f"{image.extension}_images")
        if _SPELLINGS.get(images[0].rpartition(".")[2]) not in (None, image.extension):
            shard.left_out("other_content", example=f"{name}.{images[0]}")
        shard.enter(TileRecord(key, image.size, found), counts, (image.bands, image.dtype))


def _plan_units(
    stamps: Mapping[str, Stamp], asked: Mapping[str, Any], options: BuildOptions
) -> tuple[list[Unit], str]:
    """Make a unit of work of each tar; also return what identifies all of them."""
    units = [
        Unit(number, unit_fingerprint(asked, {tar.url: stamps[tar.url]}, *options.limit_given), tar)
        for number, tar in enumerate(named_tars(stamps))
    ]
    return units, identity(asked, stamps)


def _log_result(index: DatasetIndex, out: str | os.PathLike[str], done_before: bool) -> None:
    if done_before:
        _log.info("already adopted: %s (%s)", out, pluralize(index.samples, "tile"))
        return
    _log.info("adopted %s as %s; the shards stay where they are", summarize(index), out)
    left_out, named = index.provenance["left_out"], index.provenance.get("named", {})
    for reason, (noun, text) in _NOTES.items():
        if number := left_out.get(reason):
            more = " ..." if number > len(named[reason]) and reason != "unread_members" else ""
            _log.warning("note: %s %s: %s%s", pluralize(number, noun), text, ", ".join(named[reason]), more)
    kinds = {
        kind: left_out[f"{kind}_images"] for kind in ("jpg", "png", "tif") if left_out.get(f"{kind}_images")
    }
    if len(kinds) > 1:
        listed = ", ".join(f"{number:,} {kind}" for kind, number in kinds.items())
        _log.warning("note: images are of several kinds: %s; training reads all of them", listed)
    note_labels(index)
