"""The orthomosaics and label rasters to be cut, paired and checked before anything is written."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np

from mkd.geo.band_choice import DTYPES, BandChoice, choose_bands
from mkd.geo.raster_info import RasterInfo, grid_offset
from mkd.geo.raster_safety import RasterLimits
from mkd.geo.vector.vector_labels import VectorSource, vector_path
from shards.inputs.class_file import ClassFile
from shards.inputs.encode import tile_key
from shards.inputs.labels.label_options import LabelOptions, check_grid, vector_source
from shards.inputs.mask_file import check_lossy
from shards.inputs.name_patterns import fill_pattern, star_fields
from shards.inputs.raster_source import (
    check_sources,
    expand_pattern,
    open_raster,
    raster_coding,
    spelled_there,
)
from shards.progress import pluralize

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Orthomosaic:
    """An orthomosaic and its label raster or vector file, paths or URLs, opened within `limits`.

    `name` is the file's stem, `choice` the bands kept, `label_offset` how far the label's corners lie beside the
    image's, in pixels. `label_nodata` is the no-data value of the label raster, `label_bands` how many bands it has
    beside alpha, `label_coding` the lossy coding that the class file allows. `vector` says how a vector file is read;
    `warped` that the label raster is brought onto the image's grid.
    """

    name: str
    image: str
    label: str | None
    info: RasterInfo
    choice: BandChoice
    label_offset: float = 0.0
    limits: RasterLimits = RasterLimits()
    label_nodata: float | None = None
    label_coding: str = ""
    label_bands: int = 1
    vector: VectorSource | None = None
    warped: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.info.height, self.info.width

    @property
    def files(self) -> dict[str, str]:
        """Paths or URLs of image and label by a name that no other scene's file has."""
        label = self.label if self.vector is None else vector_path(self.vector.path)
        extent = (
            None if self.vector is None or self.vector.extent is None else vector_path(self.vector.extent)
        )
        named = {f"image {self.name}": self.image, f"label {self.name}": label, f"extent {self.name}": extent}
        return {name: path for name, path in named.items() if path is not None}


def list_scenes(
    source: PathLike | Sequence[PathLike],
    labels: PathLike | Sequence[PathLike] | None,
    classfile: ClassFile,
    bands: Sequence[int] | None = None,
    limits: RasterLimits = RasterLimits(),  # noqa: B008 - frozen
    options: LabelOptions = LabelOptions(),  # noqa: B008 - frozen
) -> list[Orthomosaic]:
    """Pair orthomosaics with their labels and check that they fit, before anything is written.

    Args:
        source: paths, URLs, or patterns with stars.
        labels: rasters or vector files, one for each source, or a pattern with {stem} or {1}, what the first star of
            the source matched; one vector file may serve all; None = unlabelled.
        classfile: how labels are encoded.
        bands: bands to keep, counted from 1; None = all but alpha.
        limits: what is believed of a raster.
        options: how labels are read.

    Returns:
        At least one scene; all have as many bands of the same type.

    Raises:
        ValueError: a raster that is missing, double, of a wrong kind, or not on its image's grid.
    """
    found = [(path, entry) for entry in _as_paths(source) for path in expand_pattern(entry)]
    images = [path for path, _ in found]
    fields = {path: star_fields(entry, path) if "*" in entry else {} for path, entry in found}
    stems = Counter(tile_key(_stem(path)) for path in images)
    double = [stem for stem, count in stems.items() if count > 1]
    if double:
        raise ValueError(
            f"several rasters are named {double[0]!r}: tiles are named after them, so rename one"
        )
    masks = _pair_labels(images, labels, fields)
    scenes = []
    for image, mask in zip(images, masks, strict=True):
        scene = _read_image(image, bands, limits)
        scenes.append(scene if mask is None else _with_label(scene, mask, classfile, options))
    for scene in scenes[1:]:
        if _pixel_type(scene) != _pixel_type(scenes[0]):
            raise ValueError(
                f"{scenes[0].image} has {_pixel_type(scenes[0])}, {scene.image} {_pixel_type(scene)}: choose "
                "--bands that all have, or make one data set of each kind"
            )
    return scenes


def _read_image(image: str, bands: Sequence[int] | None, limits: RasterLimits) -> Orthomosaic:
    with open_raster(image, limits) as reader:
        info = reader.info
    check_sources(image)
    choice = choose_bands(image, info, bands, "--bands")
    count, dtype = choice.kind
    if dtype not in DTYPES or count < 3:
        raise ValueError(
            f"{image} has {pluralize(count, 'band')} of {dtype}: tiles need 3 or more bands (red, green, "
            f"blue, ..) of {', '.join(DTYPES[:-1])} or {DTYPES[-1]}; choose with --bands (grey: 1,1,1), or convert it, "
            "such as with gdal_translate -ot Float32"
        )
    return Orthomosaic(_stem(image), image, None, info, choice, limits=limits)


def _with_label(scene: Orthomosaic, label: str, classfile: ClassFile, options: LabelOptions) -> Orthomosaic:
    """Add the label of a scene, once it is known that it can be read."""
    if (vector := vector_source(label, options, classfile)) is not None:
        return replace(scene, label=label, vector=vector)
    with open_raster(label, scene.limits) as reader:
        info = reader.info
    check_sources(label)
    _check_label(label, info, classfile)
    warped = check_grid(label, info, scene.image, scene.info, options.warp_labels)
    check_lossy(coding := raster_coding(label), label, classfile)
    offset = 0.0 if warped else grid_offset(scene.info, info)
    scene = replace(scene, label=label, label_offset=offset, warped=warped)
    bands = info.bands - len(info.alpha)
    return replace(scene, label_nodata=info.nodata, label_coding=coding, label_bands=bands)


def _check_label(label: str, info: RasterInfo, classfile: ClassFile) -> None:
    bands = 3 if classfile.masks == "rgb" else 1
    if info.bands < bands or np.dtype(info.dtype).kind not in "uif":
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


def _pair_labels(
    images: list[str], labels: PathLike | Sequence[PathLike] | None, fields: Mapping[str, Mapping[str, str]]
) -> list[str | None]:
    """Name the label of each image; `fields` has what the stars of its pattern matched."""
    if labels is None:
        return [None] * len(images)
    given = _as_paths(labels)
    if len(given) == 1 and "{" in given[0]:
        known = [{"stem": _stem(image), **fields[image]} for image in images]
        for own in known:
            _check_placeholders(given[0], own)
        pairs = zip(images, known, strict=True)
        return [
            _resolve_label(image, fill_pattern(given[0], own, f"--labels {given[0]!r}"))
            for image, own in pairs
        ]
    if len(given) == 1 and vector_path(given[0]) is not None:
        given *= len(images)
    if len(given) != len(images):
        raise ValueError(
            f"{pluralize(len(given), 'label raster')} for {pluralize(len(images), 'source')}: give one each, in "
            "the same order, or a pattern with {stem}, the name of the image's file without its ending, or {1}, what "
            "the first star of --source matched"
        )
    return [spelled_there(str(path)) for path in given]


def _check_placeholders(pattern: str, known: Mapping[str, str]) -> None:
    unknown = [name for name in re.findall(r"\{([^{}]*)\}", pattern) if name not in known]
    if unknown:
        listed = " and ".join(f"{{{name}}}" for name in known)
        raise ValueError(
            f"--labels {pattern!r} has {{{unknown[0]}}}: only {listed} {'is' if len(known) == 1 else 'are'} known, the "
            "name of the image's file without its ending ({stem}), and what the stars of --source matched ({1}, {2})"
        )


def _resolve_label(image: str, label: str) -> str:
    """Place a label in its image's folder, unless it says its own."""
    if "://" in label or label.startswith("/"):
        return spelled_there(label)
    parent, slash, _ = image.rpartition("/")
    return spelled_there(f"{parent}{slash}{label}")
