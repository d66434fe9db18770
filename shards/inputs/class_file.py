"""Class files: names, colours and mask encoding of a data set, and where its files lie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mkd.documents import MAX_YAML, parse_yaml
from mkd.labels import IGNORE, Colour
from mkd.storage.folder import split_url
from shards.inputs.class_values import (
    Range,
    parse_choice,
    parse_colours,
    parse_ids,
    parse_names,
    parse_threshold,
    parse_value_names,
)
from shards.inputs.name_patterns import fill_pattern, glob_to_regex, star_fields

MASK_KINDS = ("ids", "palette", "rgb")
_REQUIRED = ("name", "classes", "palette")
_OF_MASKS = ("masks", "layout", "ids", "threshold", "ignore_colours", "unknown_colours", "lossy_masks")
_KEYS = {*_REQUIRED, *_OF_MASKS, "names", "splits", "source"}
_NO_LAYOUT = {"images": "", "masks": None}  # rasters and polygons are named on the command line
# Older data sets were made without them.
_LATER_KEYS = ("ranges", "threshold", "unknown_colours", "lossy_masks", "names")


@dataclass(frozen=True)
class ClassFile:
    """What a class file says.

    Args:
        path: the file it was read from.
        name: name of the data set.
        classes: class names; the id of a class is its position.
        palette: one (r, g, b) a class.
        masks: "ids" (grey values), "palette" (indices of a P-mode PNG) or "rgb" (colours of `palette`).
        ids: raw mask value -> class id or 255 (ignored); None = identity. Never with "rgb".
        ignore_colours: colours without a class; "rgb" only.
        images: pattern of image files below the source folder, with `*` and `**`; "" = no layout, for `tile` alone.
        mask: pattern of an image's mask, with {stem}, {dir} and {n} = what the n-th star matched;
            None = unlabelled.
        splits: split name -> list file (.txt) or pattern of images, both below the source folder.
        source: where to get the data, licence, folder layout.
        ranges: further mask values, (first, last, class id or 255); they overlap neither each other nor `ids`.
        threshold: mask values from here on are class 1, those below class 0; None = `ids` and `ranges` decide.
        unknown_colours: "nearest" or "ignore" for colours in neither list, "rgb" only; None = they stop the build.
        lossy_masks: "nearest" takes masks of a lossy coding, each value or colour as the nearest known one; None =
            they stop the build.
        names: value of a vector layer's field -> class id or 255, for values that are neither name nor id of a class.
    """

    path: str
    name: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    masks: str
    ids: Mapping[int, int] | None
    ignore_colours: tuple[Colour, ...]
    images: str
    mask: str | None
    splits: Mapping[str, str]
    source: str
    ranges: tuple[Range, ...] = ()
    threshold: int | None = None
    unknown_colours: str | None = None
    lossy_masks: str | None = None
    names: Mapping[str, int] = field(default_factory=dict)


def read_classfile(path: str | os.PathLike[str]) -> ClassFile:
    """Read and check a class file.

    Args:
        path: a YAML file, path or URL; see `configs/datasets/`.

    Returns:
        Its content, consistent in itself.

    Raises:
        ValueError: no file, no YAML, an unknown or missing key, or values that contradict each other.
    """
    name = str(path)
    folder, file = split_url(name)
    try:
        content = parse_yaml(folder.read(file, 0, MAX_YAML + 1))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ValueError(
            f"no class file at {name}: give one of configs/datasets/*.yaml, or your own"
        ) from None
    except ValueError as error:
        raise ValueError(f"{name} is not YAML: {error}") from None
    _check_keys(content, name)
    layout, (ids, ranges) = content.get("layout") or _NO_LAYOUT, parse_ids(content.get("ids"), name)
    classes = parse_names(content["classes"], name)
    classfile = ClassFile(
        path=name,
        name=str(content["name"]),
        classes=classes,
        palette=parse_colours(content["palette"], "palette", name),
        masks=str(content.get("masks") or "ids"),
        ids=ids,
        ignore_colours=parse_colours(content.get("ignore_colours") or [], "ignore_colours", name),
        images=str(layout["images"]),
        mask=layout["masks"],
        splits={str(key): place for key, place in (content.get("splits") or {}).items()},
        source=str(content.get("source") or "").strip(),
        ranges=ranges,
        threshold=parse_threshold(content.get("threshold"), name),
        unknown_colours=parse_choice(content, "unknown_colours", ("nearest", "ignore"), name),
        lossy_masks=parse_choice(content, "lossy_masks", ("nearest",), name),
        names=parse_value_names(content.get("names"), classes, name),
    )
    _check_consistent(classfile)
    return classfile


def mask_name(classfile: ClassFile, image: str) -> str:
    """Name the mask of an image.

    Args:
        classfile: with a mask pattern.
        image: path of the image relative to the source folder, POSIX.

    Returns:
        Path of the mask relative to the source folder.

    Raises:
        ValueError: a placeholder which the pattern does not know.
    """
    assert classfile.mask is not None, "unlabelled sets have no masks"
    head, _, file = image.rpartition("/")
    fields = {"stem": file.rpartition(".")[0] or file, "dir": head or "."} | star_fields(
        classfile.images, image
    )
    return fill_pattern(classfile.mask, fields, f"{classfile.path}: layout.masks")


def _check_keys(content: Any, name: str) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"{name} holds no keys: see configs/datasets/ for examples")
    unknown = sorted(str(key) for key in set(content) - _KEYS)
    if unknown:
        raise ValueError(f"{name} has unknown keys {unknown}: allowed are {sorted(_KEYS)}")
    missing = [key for key in _REQUIRED if content.get(key) is None]
    if missing:
        raise ValueError(f"{name} lacks {missing}: see configs/datasets/ for examples")
    layout = content.get("layout", _NO_LAYOUT)
    if not isinstance(layout, dict) or set(layout) != {"images", "masks"}:
        raise ValueError(
            f"{name}: layout needs the two keys images and masks (null = unlabelled), found {layout!r}"
        )
    if not isinstance(layout["images"], str) or not isinstance(layout["masks"], str | None):
        raise ValueError(
            f"{name}: layout needs one pattern each for images and masks (null = unlabelled), such as "
            f"'images/*.jpg', found {layout!r}"
        )
    splits = content.get("splits") or {}
    if not isinstance(splits, dict) or not all(isinstance(place, str) for place in splits.values()):
        raise ValueError(
            f"{name}: splits must map names to list files or patterns, such as train: train.txt, found {splits!r}"
        )


def _check_consistent(classfile: ClassFile) -> None:
    """Refuse what is well formed and yet contradicts itself."""
    name, count = classfile.path, len(classfile.classes)
    if classfile.masks not in MASK_KINDS:
        raise ValueError(f"{name}: masks is {classfile.masks!r}, allowed are {', '.join(MASK_KINDS)}")
    if len(classfile.palette) != count:
        raise ValueError(
            f"{name}: {count} classes but {len(classfile.palette)} palette colours: give one each"
        )
    if count > 254:
        raise ValueError(f"{name}: {count} classes: at most 254 fit into uint8 labels")
    if len({*classfile.palette, *classfile.ignore_colours}) != count + len(classfile.ignore_colours):
        raise ValueError(
            f"{name}: a colour stands twice in palette and ignore_colours: each class needs its own"
        )
    if classfile.masks == "rgb" and classfile.ids is not None:
        raise ValueError(f"{name}: ids has no meaning with masks: rgb; use ignore_colours")
    if classfile.masks != "rgb" and classfile.ignore_colours:
        raise ValueError(f"{name}: ignore_colours needs masks: rgb; map values to 255 in ids instead")
    if classfile.masks != "rgb" and classfile.unknown_colours:
        raise ValueError(f"{name}: unknown_colours needs masks: rgb; map values by ids in place of it")
    _check_threshold(classfile)
    targets = {*(classfile.ids or {}).values(), *(target for _, _, target in classfile.ranges)} - {IGNORE}
    if targets - set(range(count)):
        raise ValueError(
            f"{name}: ids maps to {sorted(targets - set(range(count)))}, allowed are 0..{count - 1}, 255"
        )
    glob_to_regex(classfile.images)


def _check_threshold(classfile: ClassFile) -> None:
    if classfile.threshold is None:
        return
    if classfile.masks != "ids" or classfile.ids is not None or len(classfile.classes) != 2:
        raise ValueError(
            f"{classfile.path}: threshold needs masks: ids, two classes and no key ids; with more write ranges, "
            'such as ids: {"0-99": 0, "100-199": 1, "200-255": 2}'
        )


def content_fields(classfile: ClassFile) -> dict[str, Any]:
    """Return what of a class file decides a data set's content: all but its path, splits and origin."""
    unused = {
        "path",
        "splits",
        "source",
        *(key for key in _LATER_KEYS if getattr(classfile, key) in (None, (), {})),
    }
    return {key: value for key, value in asdict(classfile).items() if key not in unused}


def unlabelled_classfile(images: str) -> ClassFile:
    """Make the class file of images without labels, which need no classes and no colours.

    Args:
        images: pattern of the images below their folder.
    """
    glob_to_regex(images)  # refuses a pattern that cannot be
    return ClassFile(
        path="--unlabelled",
        name="unlabelled",
        classes=(),
        palette=(),
        masks="ids",
        ids=None,
        ignore_colours=(),
        images=images,
        mask=None,
        splits={},
        source="",
    )


def check_layout(classfile: ClassFile) -> None:
    """Refuse a class file without a layout, which only `tile` can do without.

    Raises:
        ValueError: there is none.
    """
    if not classfile.images:
        raise ValueError(
            f"{classfile.path} has no layout, which says where images and masks lie: add one, such as layout: "
            "{images: 'images/*.jpg', masks: 'masks/{stem}.png'}"
        )
