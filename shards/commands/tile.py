"""Cutting orthomosaics of any size, with or without a label raster, into a data set of tiles."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

from mkd.dataset.index import DatasetIndex
from mkd.geo.raster import CACHE_MIB
from shards.commands.tile_cutter import EXTENSIONS, TileCutter, TileOptions
from shards.inputs.class_file import encoding_of, read_classfile
from shards.inputs.fingerprint import Stamp, identity, unit_fingerprint
from shards.inputs.orthomosaics import Orthomosaic, PathLike, list_scenes
from shards.inputs.raster_source import raster_stamps
from shards.inputs.windows import uncovered_pixels
from shards.output.build_manifest import Budget, describe_build
from shards.output.builder import Unit, build
from shards.output.dataset_writer import check_name
from shards.progress import Say, counted, describe

QUALITY = 90


def tile(
    source: PathLike | Sequence[PathLike],
    classes: PathLike,
    out: str | os.PathLike[str],
    *,
    labels: PathLike | Sequence[PathLike] | None = None,
    size: int = 512,
    stride: int | None = None,
    min_valid: float = 0.5,
    bands: Sequence[int] | None = None,
    format: str | None = None,
    quality: int | None = None,
    name: str | None = None,
    shard_size: int = 256,
    workers: int = 1,
    part: str | None = None,
    max_bad_labelled: float = 0.0,
    max_bad: float = 0.001,
    replace: bool = False,
    say: Say = print,
) -> dict[str, Any]:
    """Cut GeoTIFFs into tiles, reading window by window; a build that was stopped goes on where it was.

    Args:
        source: one or several rasters of uint8 or uint16, paths or URLs; patterns with `*` are allowed.
        classes: class file.
        out: path or URL of the new data set.
        labels: one label raster for each source, in the same order, or a pattern with {stem}, relative to the
            source's folder; None = unlabelled.
        size: edge of a tile, pixels.
        stride: distance between tiles, pixels; default `size`.
        min_valid: tiles with a smaller share of pixels with data are left out, 0..1.
        bands: bands to keep, counted from 1, at least three; default: all but alpha.
        format: "png", "jpeg" or "tif" for the images; default: png, and tif for 16 bits or more than 3 bands.
        quality: of JPEG, 1..100; default 90.
        name: name of the data set; default: the class file's.
        shard_size: windows a shard, >= 1; those without data leave it smaller.
        workers: processes, >= 1.
        part: "I/N": build only this part; `make_index` merges all.
        max_bad_labelled: share of labelled tiles that may be bad and left out, 0..1.
        max_bad: the same of unlabelled tiles.
        replace: drop an unfinished build of other options or inputs that lies in `out`.
        say: takes each line of the report.

    Returns:
        {"folder", "samples", "labelled", "no_data", "blank", "uncovered_pixels", "done_before"}; for a part without
        the counts of tiles.

    Raises:
        ValueError: bad input: one sentence with the file, what was found and what to do.
        OSError: a place that cannot be written.
    """
    classfile = read_classfile(classes)
    title = name or classfile.name
    check_name(title, shard_size)
    scenes = list_scenes(source, labels, classfile, bands)
    cut = _cut(scenes[0], size, size if stride is None else stride, min_valid, format, quality)
    asked = {"command": "tile", "name": title, "shard_size": shard_size, "bands": bands and list(bands)}
    asked |= asdict(cut)
    cutter = TileCutter(scenes, classfile, cut)
    units, inputs = _units(cutter, scenes, {**asked, "classes": encoding_of(classfile)}, shard_size)
    lost = sum(uncovered_pixels(scene.shape, cut.size, cut.stride) for scene in scenes)
    sources = [PurePosixPath(scene.image).name for scene in scenes]
    origin = {
        "source": sources,
        "origin": classfile.source,
        "inputs_sha256": inputs,
        "uncovered_pixels": lost,
    }
    budget = Budget(max_bad_labelled, max_bad)
    place = os.path.abspath(scenes[0].image) if "://" not in scenes[0].image else scenes[0].image
    description = describe_build(
        "tile", title, classfile, {**asked, **origin}, budget, place.rpartition("/")[0]
    )
    _note_rows(scenes, cut.size, say)
    try:
        how: dict[str, Any] = {"workers": workers, "part": part, "replace_other": replace, "say": say}
        built = build(out, description, units, cutter, **how)
    finally:
        cutter.close()
    report = {"folder": str(out), "uncovered_pixels": lost, "done_before": built.done_before}
    if built.index is None:
        return report
    _tell(built.index, out, scenes, built.done_before, say)
    left_out = built.index.provenance["left_out"]
    report |= {name: left_out.get(name, 0) for name in ("no_data", "blank")}
    return report | {"samples": built.index.samples, "labelled": built.index.labelled}


def _cut(
    scene: Orthomosaic, size: int, stride: int, min_valid: float, format: str | None, quality: int | None
) -> TileOptions:
    """Check the options and fill in what was not given."""
    for option, number in (("size", size), ("stride", stride)):
        if number < 1:
            raise ValueError(f"{option} is {number}: it must be at least 1 pixel")
    if not 0 <= min_valid <= 1:
        raise ValueError(f"min_valid {min_valid} is not in 0..1: it is the least share of pixels with data")
    plain = len(scene.bands) == 3 and scene.info.dtype == "uint8"
    chosen = format or ("png" if plain else "tif")
    if chosen not in EXTENSIONS:
        raise ValueError(f"--format {chosen!r}: allowed are {', '.join(EXTENSIONS)}")
    if chosen != "tif" and not plain:
        raise ValueError(
            f"--format {chosen} holds 3 bands of uint8, but {scene.image} gives {len(scene.bands)} of "
            f"{scene.info.dtype}: use --format tif, or choose 3 --bands, or convert it to 8 bits"
        )
    if quality is not None and chosen != "jpeg":
        raise ValueError(
            f"--quality {quality} has no meaning with --format {chosen}: leave it out, or use jpeg"
        )
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"--quality {quality}: give a whole number from 1 to 100")
    return TileOptions(size, stride, min_valid, chosen, quality or QUALITY)


def _units(
    cutter: TileCutter, scenes: Sequence[Orthomosaic], asked: dict[str, Any], shard_size: int
) -> tuple[list[Unit], str]:
    """Cut the windows of all scenes into shards; also return what identifies all of them."""
    total = len(cutter.windows)
    if not total:
        raise ValueError(
            f"no tile of {asked['size']} x {asked['size']} pixels fits into {scenes[0].image}: choose another --size"
        )
    stamps = raster_stamps(path for scene in scenes for path in scene.files.values())
    units = []
    for number, start in enumerate(range(0, total, shard_size)):
        span = (start, min(start + shard_size, total))
        mine = [scenes[place] for place in cutter.windows.rasters(*span)]
        units.append(Unit(number, unit_fingerprint(asked, _named(mine, stamps), span), span))
    return units, identity(asked, _named(scenes, stamps))


def _named(scenes: Sequence[Orthomosaic], stamps: Mapping[str, Stamp]) -> dict[str, Stamp]:
    return {name: stamps[path] for scene in scenes for name, path in scene.files.items()}


def _note_rows(scenes: Sequence[Orthomosaic], size: int, say: Say) -> None:
    """Tell of rasters whose blocks are whole rows, too wide for the cache: each tile reads them again."""
    for scene in scenes:
        info, bytes_each = scene.info, 2 if scene.info.dtype == "uint16" else 1
        if info.stored[1] == info.width and size * info.width * info.bands * bytes_each > CACHE_MIB << 20:
            say(
                f"note: {scene.image} is stored in whole rows, {info.width:,} pixels wide, which is slow to cut: "
                "gdal_translate -co TILED=YES -co COMPRESS=DEFLATE -co BIGTIFF=IF_SAFER makes a faster copy"
            )


def _tell(
    index: DatasetIndex,
    out: str | os.PathLike[str],
    scenes: Sequence[Orthomosaic],
    done_before: bool,
    say: Say,
) -> None:
    if done_before:
        say(f"already tiled: {out} ({counted(index.samples, 'tile')})")
        return
    say(f"tiled {describe(index)} into {out}")
    left_out = index.provenance["left_out"]
    say(f"left out: {left_out['no_data']:,} without enough data, {left_out['blank']:,} of one colour")
    if left_out["no_label"]:
        say(f"{counted(left_out['no_label'], 'tile')} without a single labelled pixel: stored as unlabelled")
    lost, total = index.provenance["uncovered_pixels"], sum(s.info.height * s.info.width for s in scenes)
    say(f"edge pixels in no whole tile: {lost:,} of {total:,} ({lost / total:.1%})")
