"""Neighbours: where tiles lie in their source and on Earth, and which of them touch."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mkd.geo.grid import Window
from mkd.geo.place.crs import horizontal_crs
from mkd.geo.place.footprints import CONTACT, Footprints, Ints, Pairs, touching_pairs
from mkd.geo.raster_info import Transform

_SHEET = "windows of rasters without a place"  # a frame in which these rasters lie side by side
_GAP = 16  # pixels between two of them


class Placement(NamedTuple):
    """Where a tile lies on Earth: CRS (WKT), transform of its upper left corner, height and width in pixels."""

    crs: str
    transform: Transform
    height: int
    width: int


class TilePlace(NamedTuple):
    """Where a tile lies: key, source raster or image, window in it (None = the whole image), place on Earth."""

    key: str
    source: str
    window: Window | None
    placement: Placement | None = None


def place_of(key: str, meta: Mapping[str, Any]) -> TilePlace:
    """Take a tile's place from its KEY.json."""
    window = meta.get("window")
    source = sys.intern(str(meta["source"]))  # one text for all tiles of a source
    return TilePlace(key, source, None if window is None else Window(*window), _placement(meta))


def _placement(meta: Mapping[str, Any]) -> Placement | None:
    """Take the place on Earth; None without a CRS, or with a transform that cannot be."""
    crs, transform, size = meta.get("crs"), meta.get("transform"), meta.get("size")
    if not crs or not transform or len(transform) != 6 or not size or horizontal_crs(str(crs)) is None:
        return None
    a, b, c, d, e, f = (float(number) for number in transform)
    if not all(map(math.isfinite, (a, b, c, d, e, f))) or a * e == b * d:
        return None
    return Placement(sys.intern(str(crs)), (a, b, c, d, e, f), int(size[0]), int(size[1]))


class TileMap:
    """Footprints of many tiles: on Earth where they are placed, else by their windows in their sources."""

    def __init__(self, places: Sequence[TilePlace]) -> None:
        """Lay the tiles out.

        Args:
            places: the tiles; they are called by their number in this list from here on.
        """
        self.places = places
        self.placed: NDArray[np.bool_] = np.array([place.placement is not None for place in places], bool)
        numbers: dict[str, int] = {}
        self.sources: Ints = np.array(
            [numbers.setdefault(place.source, len(numbers)) for place in places], np.int64
        )
        self.source_names = tuple(numbers)
        self.footprints = _footprints(places)

    def pairs(self, rows: Ints, others: Ints, margin: float = CONTACT) -> Iterator[Pairs]:
        """Yield numbers of tiles and of the others that they touch, see `touching_pairs`."""
        return touching_pairs(self.footprints, rows, others, margin)

    def touching(self, rows: Ints, others: Ints) -> Ints:
        """Return the tiles among `rows` that touch one of the others."""
        found = np.zeros(len(self.places), bool)
        for tiles, _ in self.pairs(rows, others):
            found[tiles] = True
        touched: Ints = rows[found[rows]]
        return touched

    def unknown(self, rows: Ints, others: Ints) -> Ints:
        """Return the tiles among `rows` of which nobody can know whether they lie on ground of the others.

        A tile can be compared with the tiles of its own source, and with those that are placed if it is placed.
        """
        fixed = self._comparable()
        unplaced, all_sources = set(self.sources[others[~fixed[others]]]), set(self.sources[others])
        strange = [
            len(sources) > (self.sources[row] in sources)
            for row in rows
            for sources in [unplaced if fixed[row] else all_sources]
        ]
        found: Ints = rows[np.array(strange, bool)]
        return found

    def _comparable(self) -> NDArray[np.bool_]:
        """Say which tiles can be compared with tiles of other sources: all that share Earth, or one CRS."""
        if len(np.unique(self.footprints.frames[self.placed])) <= 1:
            return self.placed
        return self.placed & np.isfinite(self.footprints.lon_lat_boxes).all(axis=1)


def touching(tiles: Sequence[TilePlace], others: Sequence[TilePlace]) -> set[str]:
    """Find the tiles that touch one of the others: shared ground or pixels, edge or corner.

    Args:
        tiles: tiles to judge.
        others: tiles that must not be touched. A tile without window and place fills its source.

    Returns:
        Keys of the tiles that touch.
    """
    tile_map = TileMap([*tiles, *others])
    numbers = np.arange(len(tile_map.places))
    found = tile_map.touching(numbers[: len(tiles)], numbers[len(tiles) :])
    return {tile_map.places[number].key for number in found}


def _footprints(places: Sequence[TilePlace]) -> Footprints:
    frames = sorted({_frame_name(place.placement.crs) for place in places if place.placement is not None})
    number_of = {name: number for number, name in enumerate([*frames, _SHEET])}
    sheet = _lay_side_by_side(places)
    transforms = np.empty((len(places), 6))
    sizes, own = np.empty((len(places), 2), np.int64), np.empty(len(places), np.int64)
    for row, place in enumerate(places):
        if place.placement is not None:
            crs, transforms[row], *sizes[row] = place.placement
            own[row] = number_of[_frame_name(crs)]
            continue
        left, height, width = sheet[place.source]
        top, col, tall, wide = place.window or (0, 0, height, width)
        transforms[row], sizes[row], own[row] = (1, 0, left + col, 0, 1, top), (tall, wide), len(frames)
    return Footprints(transforms, sizes, own, (*frames, _SHEET))


_frame_names: dict[str, str] = {}


def _frame_name(crs: str) -> str:
    """Give one name to all spellings of a CRS, with or without heights."""
    if crs not in _frame_names:
        found = horizontal_crs(crs)
        assert found is not None, "such tiles are not placed"
        _frame_names[crs] = sys.intern(found.to_wkt())
    return _frame_names[crs]


def _lay_side_by_side(places: Sequence[TilePlace]) -> dict[str, tuple[int, int, int]]:
    """Give each source without a place a left edge, height and width in one plane, so that none touch."""
    extents: dict[str, tuple[int, int]] = {}
    for place in places:
        if place.placement is None:
            height, width = extents.get(place.source, (1, 1))
            row, col, tall, wide = place.window or (0, 0, 0, 0)
            extents[place.source] = max(height, row + tall), max(width, col + wide)
    laid, left = {}, 0
    for source, (height, width) in extents.items():
        laid[source] = (left, height, width)
        left += width + _GAP
    return laid
