"""Notes on where rasters lie: without CRS and transform, or with labels a little beside them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mkd.geo.raster_info import GRID_TOLERANCE
from shards.inputs.scenes.orthomosaics import Orthomosaic
from shards.progress import pluralize

_log = logging.getLogger(__name__)

_EXACT = 0.001  # pixels: the rounding of coordinates, which is no news


def warn_of_places(scenes: Sequence[Orthomosaic]) -> None:
    """Warn of rasters whose tiles have no place on Earth, and of labels that are not quite on the image's grid."""
    unplaced = [scene for scene in scenes if scene.info.transform is None or scene.info.crs is None]
    controlled = [scene for scene in unplaced if scene.info.control is not None]
    bare = [scene for scene in unplaced if scene.info.control is None]
    if controlled:
        _log.warning(
            "note: %s no transform, only control points, such as %s (%s): its tiles have no place on Earth, and split "
            "cannot know which share ground; gdalwarp places it",
            _have(controlled),
            controlled[0].image,
            controlled[0].info.control,
        )
    if bare:
        lacks = "transform" if bare[0].info.crs else "CRS" if bare[0].info.transform else "CRS and transform"
        _log.warning(
            "note: %s no place on Earth, such as %s (no %s): split cannot know which of its tiles share ground with "
            "those of other rasters",
            _have(bare),
            bare[0].image,
            lacks,
        )
    moved = [scene for scene in scenes if scene.label_offset > _EXACT]
    if moved:
        worst = max(moved, key=lambda scene: scene.label_offset)
        _log.warning(
            "note: %s beside the grid of the image, at most %s by %.2g pixels: taken as it is, up to %s pixels",
            f"{pluralize(len(moved), 'label')} lie{'s' * (len(moved) == 1)}",
            worst.label,
            worst.label_offset,
            GRID_TOLERANCE,
        )


def _have(scenes: Sequence[Orthomosaic]) -> str:
    return f"{pluralize(len(scenes), 'raster')} ha{'s' if len(scenes) == 1 else 've'}"
