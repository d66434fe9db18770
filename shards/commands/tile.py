"""Cutting orthomosaics of any size, with or without a label raster, into a data set of tiles."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from mkd.dataset.index import DatasetIndex
from mkd.geo.raster import CACHE_MIB
from mkd.geo.raster_safety import RasterLimits
from shards.commands.input_notes import note_empty_scenes, note_labels, note_scenes
from shards.commands.tile_cutter import TileCutter
from shards.inputs.class_file import ClassFile, content_fields, read_classfile, unlabelled_classfile
from shards.inputs.fingerprint import Stamp, identity, unit_fingerprint
from shards.inputs.labels.label_options import LabelOptions
from shards.inputs.labels.label_reader import polygon_notes
from shards.inputs.raster_source import dependency_stamps, raster_stamps
from shards.inputs.scenes.orthomosaics import Orthomosaic, PathLike, band_notes, list_scenes
from shards.inputs.scenes.places import warn_of_places
from shards.inputs.scenes.tiling import TilingOptions, resolve_tiling
from shards.inputs.scenes.windows import uncovered_pixels
from shards.output.build_manifest import describe_build
from shards.output.build_options import BuildOptions
from shards.output.builder import Unit, build
from shards.output.dataset_writer import check_name
from shards.progress import pluralize, summarize

_log = logging.getLogger(__name__)


def tile(
    source: PathLike | Sequence[PathLike],
    classes: PathLike | None,
    options: BuildOptions,
    labels: PathLike | Sequence[PathLike] | None = None,
    tiling: TilingOptions = TilingOptions(),  # noqa: B008 - frozen
    label_options: LabelOptions = LabelOptions(),  # noqa: B008 - frozen
) -> dict[str, Any]:
    """Cut GeoTIFFs into tiles, window by window; a build that was stopped continues.

    Args:
        source: one or several rasters of uint8, uint16, int16 or float32, paths or URLs; patterns with `*` are allowed.
        classes: class file; None without labels.
        options: where the data set goes, and how it is built.
        labels: one label raster or vector file for each source, in the same order, a pattern, or one vector file for
            all; None = unlabelled.
        tiling: size, spacing and encoding of the tiles.
        label_options: how labels are read.

    Returns:
        {"folder", "samples", "labelled", "no_data", "blank", "uncovered_pixels", "done_before"}; for a part without
        the counts of tiles.

    Raises:
        ValueError: bad input: one sentence with the file, what was found and what to do.
        OSError: a place that cannot be written.
    """
    # Pair the rasters with their labels and check all options, before anything is written.
    classfile = _read_classes(classes, labels is not None)
    check_name(name := options.name or classfile.name, options.shard_size)
    limits = RasterLimits(options.max_pixels, tiling.trust_vrt)
    scenes = list_scenes(source, labels, classfile, tiling.bands, limits, label_options)
    spec = resolve_tiling(tiling, scenes[0])
    # Each shard gets a range of windows; options and inputs identify the data set.
    cutter = TileCutter(scenes, classfile, spec)
    asked = {"command": "tile", "name": name, "shard_size": options.shard_size}
    asked |= {"bands": tiling.bands and list(tiling.bands), **asdict(spec), **label_options.given()}
    identifying = {**asked, "classes": content_fields(classfile)}
    units, inputs = _plan_units(cutter, scenes, identifying, options.shard_size)
    # Describe the build, with what the index will tell of its origin.
    uncovered = sum(uncovered_pixels(scene.shape, spec.size, spec.stride) for scene in scenes)
    origin = {"source": [PurePosixPath(scene.image).name for scene in scenes], "origin": classfile.source}
    asked |= {**origin, "inputs_sha256": inputs, "uncovered_pixels": uncovered}
    manifest = describe_build("tile", classfile, options, asked, _folder_of(scenes[0].image))
    # Cut the windows into shards.
    note_scenes(source, labels, scenes, classfile, spec.size)
    _note_rasters(scenes, classfile, spec.size)
    try:
        built = build(manifest, units, cutter, options)
    finally:
        cutter.close()
    # Report; a part has no index yet.
    report = {"folder": str(options.out), "uncovered_pixels": uncovered, "done_before": built.done_before}
    if built.index is None:
        return report
    _log_result(built.index, options.out, scenes, built.done_before, spec.size)
    left_out = built.index.provenance["left_out"]
    report |= {reason: left_out.get(reason, 0) for reason in ("no_data", "blank")}
    return report | {"samples": built.index.samples, "labelled": built.index.labelled}


def _read_classes(classes: PathLike | None, labelled: bool) -> ClassFile:
    if classes is not None:
        return read_classfile(classes)
    if labelled:
        raise ValueError(
            "--labels need a class file, which says what their values mean: give --classes my.yaml"
        )
    return unlabelled_classfile("*")


def _folder_of(image: str) -> str:
    """Return the full path or the URL of a raster's folder."""
    return (image if "://" in image else os.path.abspath(image)).rpartition("/")[0]


def _plan_units(
    cutter: TileCutter, scenes: Sequence[Orthomosaic], asked: dict[str, Any], shard_size: int
) -> tuple[list[Unit], str]:
    """Cut the windows of all scenes into shards; also return what identifies all of them."""
    total = len(cutter.windows)
    if not total:
        raise ValueError(
            f"no tile of {asked['size']} x {asked['size']} pixels fits into {scenes[0].image}: choose another --size"
        )
    paths = [path for scene in scenes for path in scene.files.values()]
    stamps, depends = raster_stamps(paths), dependency_stamps(paths)
    units = []
    for number, start in enumerate(range(0, total, shard_size)):
        span = (start, min(start + shard_size, total))
        # A shard depends on the rasters that its windows lie in and on what those are made of, and on no others.
        own_scenes = [scenes[raster] for raster in cutter.windows.rasters(*span)]
        own_stamps = {**_stamps_by_name(own_scenes, stamps), **_dependencies_by_name(own_scenes, depends)}
        units.append(Unit(number, unit_fingerprint(asked, own_stamps, span), span))
    # Dependencies stay out of the identity, which older data sets share: units that differ are compared by content.
    return units, identity(asked, _stamps_by_name(scenes, stamps))


def _stamps_by_name(scenes: Sequence[Orthomosaic], stamps: Mapping[str, Stamp]) -> dict[str, Stamp]:
    return {name: stamps[path] for scene in scenes for name, path in scene.files.items()}


def _dependencies_by_name(
    scenes: Sequence[Orthomosaic], depends: Mapping[str, Mapping[str, Stamp]]
) -> dict[str, Stamp]:
    return {
        f"{name} depends on {file}": stamp
        for scene in scenes
        for name, path in scene.files.items()
        for file, stamp in depends[path].items()
    }


def _note_rasters(scenes: Sequence[Orthomosaic], classfile: ClassFile, size: int) -> None:
    for note in band_notes(scenes):
        _log.info("note: %s", note)
    for note in polygon_notes(scenes, classfile):
        _log.warning("note: %s", note)
    _warn_of_striped_rasters(scenes, size)
    warn_of_places(scenes)


def _warn_of_striped_rasters(scenes: Sequence[Orthomosaic], size: int) -> None:
    """Warn of rasters stored in whole rows too wide for GDAL's cache: each tile reads them again."""
    for scene in scenes:
        info, bytes_each = scene.info, np.dtype(scene.info.dtype).itemsize
        if info.stored[1] == info.width and size * info.width * info.bands * bytes_each > CACHE_MIB << 20:
            _log.warning(
                "note: %s is stored in whole rows, %s pixels wide, which is slow to cut: "
                "gdal_translate -co TILED=YES -co COMPRESS=DEFLATE -co BIGTIFF=IF_SAFER makes a faster copy",
                scene.image,
                f"{info.width:,}",
            )


def _log_result(
    index: DatasetIndex,
    out: str | os.PathLike[str],
    scenes: Sequence[Orthomosaic],
    done_before: bool,
    size: int,
) -> None:
    if done_before:
        _log.info("already tiled: %s (%s)", out, pluralize(index.samples, "tile"))
        return
    _log.info("tiled %s into %s", summarize(index), out)
    left_out = index.provenance["left_out"]
    _log.info(f"left out: {left_out['no_data']:,} without enough data, {left_out['blank']:,} of one colour")
    if left_out["no_label"]:
        without = pluralize(left_out["no_label"], "tile")
        _log.info("%s without a single labelled pixel: stored as unlabelled", without)
    if left_out.get("assigned_pixels"):
        number = pluralize(left_out["assigned_pixels"], "label pixel")
        _log.info("%s with a value or colour that the class file does not list: taken as it says", number)
    uncovered = index.provenance["uncovered_pixels"]
    total = sum(scene.info.height * scene.info.width for scene in scenes)
    _log.info(f"edge pixels in no whole tile: {uncovered:,} of {total:,} ({uncovered / total:.1%})")
    note_empty_scenes(index, out, scenes, size)
    note_labels(index)
