"""The orthomosaics and label rasters to be cut, paired and checked before anything is written."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mkd.geo.raster import RasterInfo, RasterReader, grid_difference
from shards.classfile import ClassFile
from shards.encode import legal_key
from shards.report import counted

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Scene:
    """An orthomosaic and its label raster; `name` is the file's stem."""

    name: str
    image: Path
    label: Path | None
    info: RasterInfo


def list_scenes(
    source: PathLike | Sequence[PathLike], labels: PathLike | Sequence[PathLike] | None, classfile: ClassFile
) -> list[Scene]:
    """Pair orthomosaics with their labels and check that they fit, before anything is written.

    Raises:
        ValueError: a raster that is missing, double, of a wrong kind, or not on its image's grid.
    """
    images = [path for entry in _several(source) for path in _expand(entry)]
    stems = Counter(legal_key(path.stem) for path in images)
    double = [stem for stem, count in stems.items() if count > 1]
    if double:
        raise ValueError(
            f"several rasters are named {double[0]!r}: tiles are named after them, so rename one"
        )
    masks = _labels(images, labels)
    return [_scene(image, mask, classfile) for image, mask in zip(images, masks, strict=True)]


def _scene(image: Path, label: Path | None, classfile: ClassFile) -> Scene:
    with RasterReader(image) as reader:
        info = reader.info
    if info.dtype != "uint8" or info.bands < 3:
        raise ValueError(
            f"{image} has {counted(info.bands, 'band')} of {info.dtype}: tiles need 3 bands (red, green, "
            "blue) of uint8; convert it, such as with gdal_translate -ot Byte -scale -b 1 -b 2 -b 3"
        )
    if label is not None:
        with RasterReader(label) as reader:
            _check_label(label, reader.info, image, info, classfile)
    return Scene(image.stem, image, label, info)


def _check_label(label: Path, info: RasterInfo, image: Path, other: RasterInfo, classfile: ClassFile) -> None:
    difference = grid_difference(other, info)
    if difference is not None:
        raise ValueError(
            f"{image} and its label {label} differ in {difference}: bring the label onto the image's grid"
        )
    bands = 3 if classfile.masks == "rgb" else 1
    if info.bands < bands or np.dtype(info.dtype).kind not in "ui":
        raise ValueError(
            f"label {label} has {counted(info.bands, 'band')} of {info.dtype}, but masks: {classfile.masks} "
            f"in {classfile.path} needs {counted(bands, 'band')} of whole numbers"
        )


def _several(paths: PathLike | Sequence[PathLike]) -> list[str]:
    return [str(paths)] if isinstance(paths, (str, os.PathLike)) else [str(path) for path in paths]


def _expand(entry: str) -> list[Path]:
    found = sorted(glob.glob(entry, recursive=True)) if "*" in entry else [entry]
    if not found:
        raise ValueError(f"no raster matches {entry!r}: give paths of GeoTIFFs")
    return [Path(path) for path in found]


def _labels(images: list[Path], labels: PathLike | Sequence[PathLike] | None) -> list[Path | None]:
    if labels is None:
        return [None] * len(images)
    given = _several(labels)
    if len(given) == 1 and "{stem}" in given[0]:
        return [image.parent / given[0].replace("{stem}", image.stem) for image in images]
    if len(given) != len(images):
        raise ValueError(
            f"{counted(len(given), 'label raster')} for {counted(len(images), 'source')}: give one each, in "
            "the same order, or a pattern with {stem}"
        )
    return [Path(path) for path in given]
