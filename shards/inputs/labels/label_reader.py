"""Class ids of a scene's windows, from its label raster or its polygons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader
from mkd.geo.vector.vector_labels import VectorLabels
from mkd.labels import IGNORE
from shards.inputs.class_file import ClassFile
from shards.inputs.mask_file import MaskIds, ids_where
from shards.inputs.raster_source import open_raster
from shards.inputs.scenes.orthomosaics import Orthomosaic
from shards.progress import list_first, pluralize

_MOST_NAMES = 10


class LabelReader(Protocol):
    """Labels of one scene, read window by window."""

    def read_ids(self, window: Window, valid: NDArray[np.bool_]) -> MaskIds:
        """Return the class ids (H, W) of a window, 255 where `valid`, the image's pixels with data, is False."""

    def close(self) -> None:
        """Close what is open."""


def open_labels(scene: Orthomosaic, classfile: ClassFile) -> LabelReader | None:
    """Open the labels of a scene; None where it has none."""
    if scene.label is None:
        return None
    if scene.vector is not None:
        return _Polygons(_polygons(scene, classfile))
    reader = open_raster(scene.label, scene.limits)
    if scene.warped:
        reader.warp_onto(scene.info)
    return _Raster(reader, classfile, bool(scene.label_coding))


def polygon_notes(scenes: Sequence[Orthomosaic], classfile: ClassFile) -> list[str]:
    """Read the polygons of all scenes; return what a user should know of them, a sentence each.

    Raises:
        ValueError: a vector file that cannot be laid on its scene.
    """
    with_polygons = [scene for scene in scenes if scene.vector is not None]
    bare = [PurePosixPath(s.image).name for s in with_polygons if not len(_polygons(s, classfile))]
    if not bare:
        return []
    listed = list_first(bare, _MOST_NAMES)
    return [f"no polygon lies on {pluralize(len(bare), 'scene')}: {listed}; check their CRS if some should"]


def _polygons(scene: Orthomosaic, classfile: ClassFile) -> VectorLabels:
    assert scene.vector is not None
    values = {str(raw): target for raw, target in (classfile.ids or {}).items()} | dict(classfile.names)
    return VectorLabels(scene.vector, scene.info, classfile.classes, values)


class _Raster:
    def __init__(self, reader: RasterReader, classfile: ClassFile, lossy: bool) -> None:
        self._reader, self._classfile, self._lossy = reader, classfile, lossy
        self.close = reader.close

    def read_ids(self, window: Window, valid: NDArray[np.bool_]) -> MaskIds:
        """Read a window; pixels without data, in image or label, are ignored."""
        rgb = self._classfile.masks == "rgb"
        values = self._reader.read(window, (1, 2, 3) if rgb else (1,))
        usable = valid & self._reader.valid(window)
        return ids_where(values if rgb else values[..., 0], usable, self._classfile, lossy=self._lossy)


class _Polygons:
    def __init__(self, labels: VectorLabels) -> None:
        self._labels = labels

    def read_ids(self, window: Window, valid: NDArray[np.bool_]) -> MaskIds:
        """Burn a window; pixels without data in the image are ignored."""
        return MaskIds(np.where(valid, self._labels.read_ids(window), np.uint8(IGNORE)), {})

    def close(self) -> None:
        """Polygons are in memory."""
