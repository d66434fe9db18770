"""Class files: names, colours and mask encoding of a data set, and where its files lie."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mkd.documents import MAX_YAML, parse_yaml
from mkd.labels import IGNORE, Colour
from mkd.storage.folder import split_url

MASK_KINDS = ("ids", "palette", "rgb")
_KEYS = {"name", "classes", "palette", "masks", "ids", "ignore_colours", "layout", "splits", "source"}
_REQUIRED = ("name", "classes", "palette", "masks", "layout", "source")


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
        images: pattern of image files below the source folder, with `*` and `**`.
        mask: pattern of an image's mask, with {stem}, {dir} and {n} = what the n-th star matched;
            None = unlabelled.
        splits: split name -> list file (.txt) or pattern of images, both below the source folder.
        source: where to get the data, licence, folder layout.
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
    layout = content["layout"]
    classfile = ClassFile(
        path=name,
        name=str(content["name"]),
        classes=_parse_names(content["classes"], name),
        palette=_parse_colours(content["palette"], "palette", name),
        masks=str(content["masks"]),
        ids=_parse_ids(content.get("ids"), name),
        ignore_colours=_parse_colours(content.get("ignore_colours") or [], "ignore_colours", name),
        images=layout["images"],
        mask=layout["masks"],
        splits={str(key): place for key, place in (content.get("splits") or {}).items()},
        source=str(content["source"]).strip(),
    )
    _check_consistent(classfile)
    return classfile


def glob_to_regex(pattern: str) -> re.Pattern[str]:
    """Turn a pattern with stars into a regular expression with one group a star.

    Args:
        pattern: relative path; `*` matches within a folder, `**/` any number of folders.

    Returns:
        An expression to be used with `fullmatch` on relative POSIX paths.

    Raises:
        ValueError: `?` or brackets, which are not supported.
    """
    if re.search(r"[?\[\]]", pattern):
        raise ValueError(f"pattern {pattern!r} has '?' or brackets: use only * and **/")
    parts = {"**/": r"((?:[^/]+/)*)", "*": r"([^/]*)"}
    pieces = re.split(r"(\*\*/|\*)", pattern)
    return re.compile("".join(parts.get(piece, re.escape(piece)) for piece in pieces))


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
    match = glob_to_regex(classfile.images).fullmatch(image)
    assert match is not None, "images come from the same pattern"
    head, _, file = image.rpartition("/")
    fields = {"stem": file.rpartition(".")[0] or file, "dir": head or "."}
    fields |= {str(number): text for number, text in enumerate(match.groups(), 1)}

    def fill(place: re.Match[str]) -> str:
        if place[1] not in fields:
            raise ValueError(
                f"{classfile.path}: layout.masks has {{{place[1]}}}, known are {', '.join(sorted(fields))}"
            )
        return fields[place[1]]

    return re.sub(r"\{(\w+)\}", fill, classfile.mask)


def _check_keys(content: Any, name: str) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"{name} holds no keys: see configs/datasets/ for examples")
    unknown = sorted(str(key) for key in set(content) - _KEYS)
    if unknown:
        raise ValueError(f"{name} has unknown keys {unknown}: allowed are {sorted(_KEYS)}")
    missing = [key for key in _REQUIRED if content.get(key) is None]
    if missing:
        raise ValueError(f"{name} lacks {missing}: see configs/datasets/ for examples")
    layout = content["layout"]
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


def _parse_names(values: Any, name: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name}: classes must be a list of names, found {values!r} (quote names like 'no')")
    if len(set(values)) != len(values):
        raise ValueError(f"{name}: a class name stands twice in {values}")
    return tuple(values)


def _parse_colours(values: Any, key: str, name: str) -> tuple[Colour, ...]:
    try:
        colours = tuple((int(r), int(g), int(b)) for r, g, b in values)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: {key} must be a list of [r, g, b], found {values!r}") from None
    wrong = [colour for colour in colours if not all(0 <= part <= 255 for part in colour)]
    if wrong:
        raise ValueError(f"{name}: {key} has {wrong[0]}: each part must be 0..255")
    return colours


def _parse_ids(values: Any, name: str) -> Mapping[int, int] | None:
    if values is None:
        return None
    pairs = list(values.items()) if isinstance(values, dict) else []
    if not pairs or not all(isinstance(part, int) for pair in pairs for part in pair):
        raise ValueError(
            f"{name}: ids must map mask values to class ids, both whole numbers, found {values!r}"
        )
    if not all(0 <= raw <= 65535 for raw, _ in pairs):
        raise ValueError(f"{name}: ids has mask values outside 0..65535")
    return dict(pairs)


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
    targets = set((classfile.ids or {}).values()) - {IGNORE}
    if targets - set(range(count)):
        raise ValueError(
            f"{name}: ids maps to {sorted(targets - set(range(count)))}, allowed are 0..{count - 1}, 255"
        )
    glob_to_regex(classfile.images)


def content_fields(classfile: ClassFile) -> dict[str, Any]:
    """Return what of a class file decides a data set's content: all but its path, splits and origin."""
    return {key: value for key, value in asdict(classfile).items() if key not in ("path", "splits", "source")}
