"""The orthomosaics and label rasters to be cut, paired and checked before anything is written."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from mkd.geo.raster_info import RasterInfo, grid_difference, grid_offset
from mkd.geo.raster_safety import RasterLimits
from shards.inputs.class_file import ClassFile
from shards.inputs.encode import tile_key
from shards.inputs.raster_source import expand_pattern, open_raster
from shards.progress import pluralize

PathLike = str | os.PathLike[str]

_DTYPES = ("uint8", "uint16")


@dataclass(frozen=True)
class Orthomosaic:
    """An orthomosaic and its label raster, paths or URLs, opened within `limits`.

    `name` is the file's stem, `bands` what is kept, `label_offset` how far the label's corners lie beside the image's,
    in pixels.
    """

    name: str
    image: str
    label: str | None
    info: RasterInfo
    bands: tuple[int, ...]
    label_offset: float = 0.0
    limits: RasterLimits = RasterLimits()

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
    limits: RasterLimits = RasterLimits(),  # noqa: B008 - frozen
) -> list[Orthomosaic]:
    """Pair orthomosaics with their labels and check that they fit, before anything is written.

    Args:
        source: paths, URLs, or patterns with stars.
        labels: one for each source, or a pattern with {stem}; None = unlabelled.
        classfile: how labels are encoded.
        bands: bands to keep, counted from 1; None = all but alpha.
        limits: what is believed of a raster.

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
    scenes = [
        _read_scene(image, mask, classfile, bands, limits) for image, mask in zip(images, masks, strict=True)
    ]
    for scene in scenes[1:]:
        if _pixel_type(scene) != _pixel_type(scenes[0]):
            raise ValueError(
                f"{scenes[0].image} has {_pixel_type(scenes[0])}, {scene.image} {_pixel_type(scene)}: choose "
                "--bands that all have, or make one data set of each kind"
            )
    return scenes


def _read_scene(
    image: str, label: str | None, classfile: ClassFile, bands: Sequence[int] | None, limits: RasterLimits
) -> Orthomosaic:
    with open_raster(image, limits) as reader:
        info = reader.info
    kept = tuple(bands or (band for band in range(1, info.bands + 1) if band not in info.alpha))
    if not all(1 <= band <= info.bands for band in kept):
        raise ValueError(
            f"{image} has bands 1..{info.bands}, --bands asks for {','.join(map(str, kept))}: choose others"
        )
    if info.dtype not in _DTYPES or len(kept) < 3:
        raise ValueError(
            f"{image} has {pluralize(len(kept), 'band')} of {info.dtype}: tiles need 3 or more bands (red, green, "
            "blue, ..) of uint8 or uint16; choose with --bands (grey: 1,1,1), or convert it, such as with "
            "gdal_translate -ot Byte -scale"
        )
    offset = 0.0
    if label is not None:
        with open_raster(label, limits) as reader:
            _check_label(label, reader.info, image, info, classfile)
            offset = grid_offset(info, reader.info)
    return Orthomosaic(_stem(image), image, label, info, kept, offset, limits)


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
    return f"{pluralize(len(scene.bands), 'band')} of {scene.info.dtype}"


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
