"""Cutting orthomosaics of any size, with or without a label raster, into a data set of tiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mkd.data.index import read_index
from mkd.geo.grid import Window, tile_windows
from mkd.geo.raster import RasterInfo, RasterReader, Transform
from shards.classfile import IGNORE, ClassFile, read_classfile
from shards.encode import encode_png, ids_from_values, legal_key, tile_from
from shards.inputs import fingerprint, is_done
from shards.report import Say, counted, describe, progress
from shards.scenes import PathLike, Scene, list_scenes
from shards.unknown import UnknownValues
from shards.writer import ShardWriter


def tile(
    source: PathLike | Sequence[PathLike],
    classes: PathLike,
    out: PathLike,
    *,
    labels: PathLike | Sequence[PathLike] | None = None,
    size: int = 512,
    stride: int | None = None,
    min_valid: float = 0.5,
    name: str | None = None,
    shard_size: int = 256,
    say: Say = print,
) -> dict[str, Any]:
    """Cut GeoTIFFs into tiles, reading window by window.

    Args:
        source: one or several rasters with 3 or 4 bands of uint8; patterns with `*` are allowed.
        classes: class file.
        out: folder of the new data set; no shard is left there when cutting fails.
        labels: one label raster for each source, in the same order, or a pattern with {stem}, relative to the
            source's folder; None = unlabelled.
        size: edge of a tile, pixels.
        stride: distance between tiles, pixels; default `size`.
        min_valid: tiles with a smaller share of pixels with data are left out, 0..1.
        name: name of the data set; default: the class file's.
        shard_size: tiles a shard, >= 1.
        say: takes each line of the report.

    Returns:
        {"folder", "samples", "labelled", "no_data", "blank", "uncovered_pixels", "done_before"}.

    Raises:
        ValueError: bad input: one sentence with the file, what was found and what to do.
        OSError: a place that cannot be written.
    """
    if not 0 <= min_valid <= 1:
        raise ValueError(f"min_valid {min_valid} is not in 0..1: it is the least share of pixels with data")
    classfile, step = read_classfile(classes), size if stride is None else stride
    scenes = list_scenes(source, labels, classfile)
    title = name or classfile.name
    asked = {"command": "tile", "name": title, "shard_size": shard_size}
    asked |= {"size": size, "stride": step, "min_valid": min_valid}
    files = [path for scene in scenes for path in (scene.image, scene.label) if path is not None]
    inputs = fingerprint(asked, [("classes", Path(classes)), *((path.name, path) for path in files)])
    if is_done(out, inputs):
        index = read_index(out)
        say(f"already tiled: {out} ({counted(index.samples, 'tile')})")
        left_out = {key: int(index.provenance[key]) for key in ("no_data", "blank", "uncovered_pixels")}
        return _result(out, index.samples, index.labelled, left_out, done_before=True)
    with ShardWriter(out, title, classfile.classes, classfile.palette, shard_size) as writer:
        left_out = _cut_all(writer, scenes, classfile, size, step, min_valid)
        if not writer.samples:
            raise ValueError(
                f"no tile of {size} x {size} pixels with data in {scenes[0].image}: choose another --size"
            )
        origin = {"source": [scene.image.name for scene in scenes], "origin": classfile.source}
        index = writer.finish({**asked, **origin, **left_out, "inputs_sha256": inputs})
    say(f"tiled {describe(index)} into {out}")
    _tell(scenes, left_out, say)
    return _result(out, index.samples, index.labelled, left_out, done_before=False)


def tile_transform(transform: Transform | None, window: Window) -> list[float] | None:
    """Move a raster's transform to the upper left corner of a window.

    Args:
        transform: (a, b, c, d, e, f) of the raster, or None.
        window: pixels.

    Returns:
        [a, b, c + a col + b row, d, e, f + d col + e row], or None.
    """
    if transform is None:
        return None
    a, b, c, d, e, f = transform
    return [a, b, c + a * window.col + b * window.row, d, e, f + d * window.col + e * window.row]


def uncovered_pixels(info: RasterInfo, size: int, stride: int) -> int:
    """Count the pixels of a raster that lie in no whole tile."""
    rows, cols = (_covered(length, size, stride) for length in (info.height, info.width))
    return info.height * info.width - rows * cols


def _covered(length: int, size: int, stride: int) -> int:
    if length < size:
        return 0
    return size + (length - size) // stride * min(stride, size)


def _cut_all(
    writer: ShardWriter, scenes: list[Scene], classfile: ClassFile, size: int, stride: int, min_valid: float
) -> dict[str, int]:
    unknown, left_out = UnknownValues(), Counter({"no_data": 0, "blank": 0, "uncovered_pixels": 0})
    for scene in scenes:
        windows = list(tile_windows(scene.info.height, scene.info.width, size, stride))
        left_out["uncovered_pixels"] += uncovered_pixels(scene.info, size, stride)
        with ExitStack() as stack:
            image = stack.enter_context(RasterReader(scene.image))
            label = None if scene.label is None else stack.enter_context(RasterReader(scene.label))
            for window in progress(windows, len(windows), f"tile {scene.image.name}"):
                valid = image.valid(window)
                ids = None if label is None else _label_ids(label, window, valid, classfile, unknown)
                pixels = image.read(window, (1, 2, 3))
                if valid.mean() < min_valid or not valid.any():
                    left_out["no_data"] += 1
                elif (pixels[valid] == pixels[valid][0]).all():
                    left_out["blank"] += 1
                elif not unknown.pixels:
                    _add(writer, scene, window, pixels, ids)
    unknown.check(classfile)
    return dict(left_out)


def _add(
    writer: ShardWriter,
    scene: Scene,
    window: Window,
    pixels: NDArray[np.uint8],
    ids: NDArray[np.uint8] | None,
) -> None:
    meta = {
        "source": scene.name,
        "window": list(window),
        "size": [window.height, window.width],
        "crs": scene.info.crs,
        "transform": tile_transform(scene.info.transform, window),
    }
    key = f"{legal_key(scene.name)}_{window.row:06d}_{window.col:06d}"
    writer.add(tile_from(key, encode_png(pixels), "png", ids, meta))


def _label_ids(
    label: RasterReader,
    window: Window,
    valid: NDArray[np.bool_],
    classfile: ClassFile,
    unknown: UnknownValues,
) -> NDArray[np.uint8]:
    """Read class ids of a window; pixels without data, in image or label, are ignored."""
    bands = (1, 2, 3) if classfile.masks == "rgb" else (1,)
    values = label.read(window, bands)
    usable = valid & label.valid(window)
    ids = np.full(usable.shape, IGNORE, np.uint8)
    raw = values[usable][:, None, :] if classfile.masks == "rgb" else values[usable]
    found, wrong = ids_from_values(raw, classfile)
    ids[usable] = found[:, 0]
    unknown.add(wrong, str(label.path))
    return ids


def _tell(scenes: list[Scene], left_out: dict[str, int], say: Say) -> None:
    say(f"left out: {left_out['no_data']:,} without enough data, {left_out['blank']:,} of one colour")
    total = sum(scene.info.height * scene.info.width for scene in scenes)
    share = left_out["uncovered_pixels"] / total
    say(f"edge pixels in no whole tile: {left_out['uncovered_pixels']:,} of {total:,} ({share:.1%})")


def _result(
    out: PathLike, samples: int, labelled: int, left_out: dict[str, int], done_before: bool
) -> dict[str, Any]:
    return {
        "folder": str(out),
        "samples": samples,
        "labelled": labelled,
        **left_out,
        "done_before": done_before,
    }
