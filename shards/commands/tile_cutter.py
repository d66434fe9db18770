"""Cutting the windows of one shard out of their rasters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import simplejpeg
from numpy.typing import NDArray

from mkd.geo.grid import Window
from mkd.geo.raster import DamagedRaster, RasterReader, encode_tiff
from mkd.geo.raster_info import Transform
from shards.inputs.class_file import ClassFile
from shards.inputs.encode import encode_png, encode_tile, tile_key, without_missing
from shards.inputs.labels.label_reader import LabelReader, open_labels
from shards.inputs.mask_file import class_ids
from shards.inputs.raster_source import open_raster
from shards.inputs.scenes.orthomosaics import Orthomosaic
from shards.inputs.scenes.tiling import EXTENSIONS, TileSpec
from shards.inputs.scenes.windows import WindowGrid
from shards.output.shard_writer import ShardWriter
from shards.output.unknown_values import list_unknown


class TileCutter:
    """Cuts the windows [start, stop) of all scenes' windows, scene after scene; keeps one scene open."""

    def __init__(self, scenes: Sequence[Orthomosaic], classfile: ClassFile, spec: TileSpec) -> None:
        self._scenes, self._classfile, self._spec = tuple(scenes), classfile, spec
        self.windows = WindowGrid([scene.shape for scene in scenes], spec.size, spec.stride)
        self._open_number = -1
        self._image: RasterReader | None = None
        self._label: LabelReader | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files to the process that opened them."""
        return {**self.__dict__, "_image": None, "_label": None}

    def __call__(self, span: tuple[int, int], shard: ShardWriter) -> None:
        """Add the tiles of some windows to a shard; count those without data, list those that are bad."""
        for reason in ("no_data", "blank", "no_label"):
            shard.left_out(reason, 0)
        for number, window in self.windows.windows(*span):
            scene = self._scenes[number]
            try:
                self._cut_tile(number, window, shard)
            except DamagedRaster as error:
                shard.quarantine(_locate(scene.image, window), str(error), scene.label is not None)

    def close(self) -> None:
        """Close what is open."""
        for reader in (self._image, self._label):
            if reader is not None:
                reader.close()
        self._image = self._label = None

    def _open_scene(self, number: int) -> tuple[RasterReader, LabelReader | None]:
        if number != self._open_number or self._image is None:
            self.close()
            scene = self._scenes[number]
            self._image = open_raster(scene.image, scene.limits)
            self._label = open_labels(scene, self._classfile)
            self._open_number = number
        return self._image, self._label

    def _cut_tile(self, number: int, window: Window, shard: ShardWriter) -> None:
        scene, (image, label) = self._scenes[number], self._open_scene(number)
        valid = scene.choice.valid(image, window)
        if valid.mean() < self._spec.min_valid or not valid.any():
            shard.left_out("no_data")
            return
        pixels = without_missing(scene.choice.pixels(image, window), valid)
        seen = pixels[valid] if not valid.all() else pixels.reshape(-1, pixels.shape[2])
        if (seen == seen[0]).all():
            shard.left_out("blank")
            return
        ids = None
        if label is not None:
            found = label.read_ids(window, valid)
            ids, unknown = found.ids, found.unknown
            if unknown:
                reason = f"unknown label values {list_unknown(unknown)}"
                place = _locate(scene.label or "", window)
                shard.quarantine(place, reason, True, unknown, classes=class_ids(ids))
                return
            if found.assigned:
                shard.left_out("assigned_pixels", found.assigned)
        key = f"{tile_key(scene.name)}_{window.row:06d}_{window.col:06d}"
        data, extension = self._encode_image(pixels), EXTENSIONS[self._spec.format]
        meta, bands, dtype = _tile_meta(scene, window), pixels.shape[2], str(pixels.dtype)
        tile = encode_tile(key, data, extension, ids, meta, bands=bands, dtype=dtype, valid=valid)
        shard.left_out("no_label", int(ids is not None and tile.label is None))
        shard.add(tile)

    def _encode_image(self, pixels: NDArray[Any]) -> bytes:
        match self._spec.format:
            case "png":
                return encode_png(pixels)
            case "jpeg":
                data: bytes = simplejpeg.encode_jpeg(pixels, self._spec.quality, "RGB", "420")
                return data
            case _:
                return encode_tiff(pixels)


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


def _tile_meta(scene: Orthomosaic, window: Window) -> dict[str, Any]:
    return {
        "source": scene.name,
        "window": list(window),
        "size": [window.height, window.width],
        "crs": scene.info.crs,
        "transform": tile_transform(scene.info.transform, window),
    }


def _locate(path: str, window: Window) -> str:
    return f"{path} at row {window.row}, column {window.col}"
