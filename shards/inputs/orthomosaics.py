"""The orthomosaics and label rasters to be cut, paired and checked before anything is written."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from mkd.geo.band_choice import DTYPES, BandChoice, choose_bands
from mkd.geo.raster_info import RasterInfo, grid_difference
from shards.inputs.class_file import ClassFile
from shards.inputs.encode import tile_key
from shards.inputs.raster_source import expand_pattern, open_raster
from shards.progress import pluralize

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Orthomosaic:
    """An orthomosaic and its label raster, paths or URLs; `name` is the file's stem, `choice` the bands kept."""

    name: str
    image: str
    label: str | None
    info: RasterInfo
    choice: BandChoice

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.info.height, self.info.width

    @property
    def files(self) -> dict[str, str]:
        """Paths or URLs of image and label by a name that no other scene's file has."""
        both = {f"image {self.name}": self.image, f"label {self.name}": self.label}
        return {name: path for name, path in both.items() if path is not None}


def list_scenes(
    source: PathLike | Sequence[PathLike],
    labels: PathLike | Sequence[PathLike] | None,
    classfile: ClassFile,
    bands: Sequence[int] | None = None,
) -> list[Orthomosaic]:
    """Pair orthomosaics with their labels and check that they fit, before anything is written.

    Args:
        source: paths, URLs, or patterns with stars.
        labels: one for each source, or a pattern with {stem}; None = unlabelled.
        classfile: how labels are encoded.
        bands: bands to keep, counted from 1; None = all but alpha.

    Returns:
        At least one scene; all have as many bands of the same type.

    Raises:
        ValueError: a raster that is missing, double, of a wrong kind, or not on its image's grid.
    """
    images = [path for entry in _as_paths(source) for path in expand_pattern(entry)]
    stems = Counter(tile_key(_stem(path)) for path in images)
    double = [stem for stem, count in stems.items() if count > 1]
    if double:
        raise ValueError(
            f"several rasters are named {double[0]!r}: tiles are named after them, so rename one"
        )
    masks = _pair_labels(images, labels)
    scenes = [_read_scene(image, mask, classfile, bands) for image, mask in zip(images, masks, strict=True)]
    for scene in scenes[1:]:
        if _pixel_type(scene) != _pixel_type(scenes[0]):
            raise ValueError(
                f"{scenes[0].image} has {_pixel_type(scenes[0])}, {scene.image} {_pixel_type(scene)}: choose "
                "--bands that all have, or make one data set of each kind"
            )
    return scenes


def _read_scene(
    image: str, label: str | None, classfile: ClassFile, bands: Sequence[int] | None
) -> Orthomosaic:
    with open_raster(image) as reader:
        info = reader.info
    choice = choose_bands(image, info, bands, "--bands")
    count, dtype = choice.kind
    if dtype not in DTYPES or count < 3:
        raise ValueError(
            f"{image} has {pluralize(count, 'band')} of {dtype}: tiles need 3 or more bands (red, green, "
            f"blue, ..) of {', '.join(DTYPES[:-1])} or {DTYPES[-1]}; choose with --bands (grey: 1,1,1), or convert it, "
            "such as with gdal_translate -ot Float32"
        )
    if label is not None:
        with open_raster(label) as reader:
            _check_label(label, reader.info, image, info, classfile)
    return Orthomosaic(_stem(image), image, label, info, choice)


def _check_label(label: str, info: RasterInfo, image: str, other: RasterInfo, classfile: ClassFile) -> None:
    difference = grid_difference(other, info)
    if difference is not None:
        raise ValueError(
            f"{image} and its label {label} differ in {difference}: bring the label onto the image's grid"
        )
    bands = 3 if classfile.masks == "rgb" else 1
    if info.bands < bands or np.dtype(info.dtype).kind not in "ui":
        raise ValueError(
            f"label {label} has {pluralize(info.bands, 'band')} of {info.dtype}, but masks: {classfile.masks} "
            f"in {classfile.path} needs {pluralize(bands, 'band')} of whole numbers"
        )


def _pixel_type(scene: Orthomosaic) -> str:
    count, dtype = scene.choice.kind
    return f"{pluralize(count, 'band')} of {dtype}"


def band_notes(scenes: Sequence[Orthomosaic]) -> list[str]:
    """Return what was taken for alpha or expanded from a colour table, a sentence each."""
    notes = []
    with_alpha = [scene for scene in scenes if scene.choice.masks]
    if with_alpha:
        first, masks = with_alpha[0], with_alpha[0].choice.masks
        every = ",".join(str(band) for band in range(1, first.info.bands + 1))
        notes.append(
            f"band {', '.join(map(str, masks))} of {first.image}{_and_others(with_alpha)} is called alpha there: it "
            f"says where there is data; if it is data itself, such as near infrared, give --bands {every}"
        )
    with_table = [scene for scene in scenes if scene.choice.table is not None]
    if with_table:
        notes.append(
            f"{with_table[0].image}{_and_others(with_table)} has a colour table: its red, green and blue are taken"
        )
    return notes


def _and_others(scenes: Sequence[Orthomosaic]) -> str:
    return f" (and of {len(scenes) - 1} more)" if len(scenes) > 1 else ""


def _as_paths(paths: PathLike | Sequence[PathLike]) -> list[str]:
    return [str(paths)] if isinstance(paths, (str, os.PathLike)) else [str(path) for path in paths]


def _stem(path: str) -> str:
    return PurePosixPath(path).stem


def _pair_labels(images: list[str], labels: PathLike | Sequence[PathLike] | None) -> list[str | None]:
    if labels is None:
        return [None] * len(images)
    given = _as_paths(labels)
    for label in given:
        if unknown := set(re.findall(r"\{.*?\}", label)) - {"{stem}"}:
            raise ValueError(
                f"--labels {label!r} has {sorted(unknown)[0]}: only {{stem}} is known, the name of the image's file "
                "without its ending"
            )
    if len(given) == 1 and "{stem}" in given[0]:
        return [_resolve_label(image, given[0].replace("{stem}", _stem(image))) for image in images]
    if len(given) != len(images):
        raise ValueError(
            f"{pluralize(len(given), 'label raster')} for {pluralize(len(images), 'source')}: give one each, in "
            "the same order, or a pattern with {stem}"
        )
    return [str(path) for path in given]


def _resolve_label(image: str, label: str) -> str:
    """Place a label in its image's folder, unless it says its own."""
    if "://" in label or label.startswith("/"):
        return label
    parent, slash, _ = image.rpartition("/")
    return f"{parent}{slash}{label}"
