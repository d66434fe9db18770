"""Image lists: the files of a folder that belong to a data set, by pattern, split list and slice."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mkd.storage.folder import Folder, split_url
from shards.inputs.class_file import ClassFile, check_layout, mask_name
from shards.inputs.encode import tile_key
from shards.inputs.fingerprint import FileTree, nfc
from shards.progress import list_first, pluralize

_MOST_BYTES = 1 << 28  # of a list: millions of names of 100 letters


class ImageItem(NamedTuple):
    """One image to pack: tile key, source name, and paths relative to the data set's folder."""

    key: str
    name: str
    image: str
    mask: str | None

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of image and mask, where there is one."""
        return (self.image,) if self.mask is None else (self.image, self.mask)


@dataclass(frozen=True)
class ImageSelection:
    """Which images of a folder are packed; all of them by default.

    Attributes:
        split: one of the class file's splits.
        keys: instead of `split`, a file with one image name, stem or relative path a line; path or URL.
        image_slice: Python slice "A:B" of the images in order of their relative path, after `split` or `keys`.
    """

    split: str | None = None
    keys: str | os.PathLike[str] | None = None
    image_slice: str | None = None


def list_items(source: FileTree, classfile: ClassFile, selection: ImageSelection) -> list[ImageItem]:
    """List what is to be packed, in order of the images' relative paths.

    Args:
        source: folder laid out as the class file says.
        classfile: patterns of images and masks.
        selection: which of the images.

    Returns:
        At least one item; every mask exists.

    Raises:
        ValueError: a folder, image, mask, split or list that is not there, or two images with one key.
    """
    check_layout(classfile)
    split, keys = selection.split, selection.keys
    if split is not None and keys is not None:
        raise ValueError(f"both split {split!r} and keys {keys} are given: choose one of them")
    images = find_images(source, classfile)
    # Narrow them down: by split or list first, by slice last.
    if split is not None:
        images = select_split(images, source, classfile, split)
    if keys is not None:
        images = select_listed(images, *split_url(str(keys)))
    if selection.image_slice is not None:
        images = select_slice(images, selection.image_slice)
    # Name the tiles, and find a mask for each.
    names = source_names(images, classfile)
    masks = find_masks(images, source, classfile)
    return [ImageItem(tile_key(names[image]), names[image], image, mask) for image, mask in masks.items()]


def find_images(source: FileTree, classfile: ClassFile) -> list[str]:
    """List the images of a data set.

    Args:
        source: folder laid out as the class file says.
        classfile: with the pattern of images.

    Returns:
        POSIX paths relative to the folder, sorted; hidden files are left out.

    Raises:
        ValueError: no such folder, or no image in it.
    """
    if source.folder.local is not None and not source.folder.local.is_dir():
        raise ValueError(f"no folder at {source.folder}: give the data set's folder as --source")
    images = source.matching(classfile.images)
    if not images:
        raise ValueError(
            f"no image in {source.folder} matches {classfile.images!r} of {classfile.path}: {_layout_hint(classfile)}"
        )
    return images


def select_split(images: Sequence[str], source: FileTree, classfile: ClassFile, split: str) -> list[str]:
    """Keep the images of one of the class file's splits: a list file, or a pattern.

    Raises:
        ValueError: a split, list or image that does not exist.
    """
    if split not in classfile.splits:
        known = ", ".join(classfile.splits) or "none"
        raise ValueError(
            f"no split {split!r} in {classfile.path}: it has {known}; use --keys or --slice instead"
        )
    place = classfile.splits[split]
    if place.endswith(".txt"):
        return select_listed(images, source.folder, place)
    kept = set(source.matching(place))
    chosen = [image for image in images if image in kept]
    if not chosen:
        raise ValueError(
            f"split {split!r}: no image in {source.folder} matches {place!r} of {classfile.path}"
        )
    return chosen


def select_listed(images: Sequence[str], folder: Folder, file: str) -> list[str]:
    """Keep the images that a list names: a file name, stem or relative path a line; with '#' first it is a comment.

    Raises:
        ValueError: no such list, or a name in it without an image, or with several.
    """
    path = folder.url_of(file)
    try:
        data = folder.read(file, 0, _MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise ValueError(f"no list of images at {path}: one name a line is expected there") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no list of images: byte {error.start} is not UTF-8 text; give a text file with one name a line"
        ) from None
    if len(data) > _MOST_BYTES:
        raise ValueError(f"{path} is no list of images: it has more than {_MOST_BYTES:,} bytes; give another")
    lines = [
        line for line in re.split(r"\r\n|\r|\n", text) if line.strip() and not line.strip().startswith("#")
    ]
    exact, composed = _images_by_name(images, str), _images_by_name(images, nfc)
    names = [line if line in exact else line.strip().removeprefix("./") for line in lines]
    found = {name: exact.get(name) or composed.get(nfc(name), set()) for name in names}
    absent = [name for name in names if not found[name]]
    if absent or not names:
        comment = (
            "; '#' starts a comment only at a line's start" if any(" #" in name for name in absent) else ""
        )
        raise ValueError(
            f"{path} names {pluralize(len(absent), 'image')} not there: {list_first(absent) or 'it is empty'}{comment}"
        )
    double = [name for name in names if len(found[name]) > 1]
    if double:
        raise ValueError(
            f"{path}: {double[0]!r} names several images ({list_first(sorted(found[double[0]]))}): give paths"
        )
    chosen = set().union(*found.values())
    return [image for image in images if image in chosen]


def _images_by_name(images: Sequence[str], form: Callable[[str], str]) -> dict[str, set[str]]:
    """List the images that a name, stem or path may mean, in a Unicode form."""
    found: dict[str, set[str]] = {}
    for image in images:
        file = image.rpartition("/")[2]
        for name in {image, file, file.rpartition(".")[0], image.rpartition(".")[0]}:
            found.setdefault(form(name), set()).add(image)
    return found


def select_slice(images: Sequence[str], part: str) -> list[str]:
    """Keep a Python slice "A:B" of the images in their order.

    Raises:
        ValueError: no slice, or an empty one.
    """
    match = re.fullmatch(r"(-?\d+)?:(-?\d+)?", part)
    if match is None:
        raise ValueError(f"slice {part!r} is not of the form A:B, such as 0:80 or 80: (numbers of images)")
    start, stop = (None if text is None else int(text) for text in match.groups())
    chosen = list(images[start:stop])
    if not chosen:
        raise ValueError(f"slice {part!r} of {pluralize(len(images), 'image')} is empty")
    return chosen


def find_masks(images: Sequence[str], source: FileTree, classfile: ClassFile) -> dict[str, str | None]:
    """Name the mask of each image; None throughout for an unlabelled set.

    Raises:
        ValueError: masks that are not there, naming the first.
    """
    if classfile.mask is None:
        return dict.fromkeys(images)
    asked = {image: mask_name(classfile, image) for image in images}
    masks = {image: source.resolve(mask) for image, mask in asked.items()}
    absent = [image for image, mask in masks.items() if mask is None]
    if absent:
        alike = source.alike(asked[absent[0]])
        spelled = f" (there is {alike[0]}: rename it)" if alike else ""
        listed = list_first(f"{asked[image]} of {image}" for image in absent)
        raise ValueError(
            f"{source.folder} lacks {pluralize(len(absent), 'mask')}: {listed}{spelled}; {_layout_hint(classfile)}"
        )
    return masks


def source_names(images: Sequence[str], classfile: ClassFile) -> dict[str, str]:
    """Name the source of each image: the path below the pattern's fixed folders, without suffix.

    Raises:
        ValueError: two images whose names make the same tile key.
    """
    fixed = classfile.images.split("*")[0].rpartition("/")[0]
    names: dict[str, str] = {}
    owners: dict[str, str] = {}
    for image in images:
        names[image] = image[len(fixed) :].lstrip("/").rpartition(".")[0]
        key = tile_key(names[image])
        if key in owners:
            raise ValueError(f"{owners[key]} and {image} would share the key {key!r}: rename one of them")
        owners[key] = image
    return names


def _layout_hint(classfile: ClassFile) -> str:
    if not classfile.source:  # images alone, without a class file
        return "give another pattern"
    return f"images are {classfile.images!r}, masks {classfile.mask!r}; see `source` in {classfile.path}"
