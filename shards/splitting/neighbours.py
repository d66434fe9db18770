"""Neighbours: where tiles lie in their source, and which of them touch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mkd.geo.grid import Window, touches


class TilePlace(NamedTuple):
    """Where a tile lies: key, source raster or image, window in it (None = the whole image)."""

    key: str
    source: str
    window: Window | None


def place_of(key: str, meta: Mapping[str, Any]) -> TilePlace:
    """Take a tile's place from its KEY.json."""
    window = meta.get("window")
    return TilePlace(key, str(meta["source"]), None if window is None else Window(*window))


class GridIndex:
    """Tiles by the cells of a coarse grid that they reach, so that only neighbours are compared."""

    def __init__(self, places: Sequence[TilePlace]) -> None:
        """Sort tiles into cells as wide as the largest of them."""
        windows = [place.window for place in places if place.window is not None]
        self._edge = max((max(window.height, window.width) for window in windows), default=1 << 40)
        self._cells: dict[tuple[str, int, int], list[TilePlace]] = defaultdict(list)
        self._sources: dict[str, list[TilePlace]] = defaultdict(list)
        self._whole: dict[str, list[TilePlace]] = defaultdict(list)
        for place in places:
            self._sources[place.source].append(place)
            if place.window is None:
                self._whole[place.source].append(place)
            for cell in self._cells_of(place):
                self._cells[cell].append(place)

    def near(self, place: TilePlace) -> Iterator[TilePlace]:
        """Yield the tiles that touch a tile (and itself, if it is one of them), some several times."""
        if place.window is None:
            yield from self._sources.get(place.source, ())
            return
        yield from self._whole.get(place.source, ())
        for cell in self._cells_of(place):
            for other in self._cells.get(cell, ()):
                if other.window is not None and touches(place.window, other.window):
                    yield other

    def _cells_of(self, place: TilePlace) -> Iterator[tuple[str, int, int]]:
        if place.window is None:
            return
        row, col, height, width = place.window
        for cell_row in range(row // self._edge, (row + height) // self._edge + 1):
            for cell_col in range(col // self._edge, (col + width) // self._edge + 1):
                yield (place.source, cell_row, cell_col)


def touching(tiles: Iterable[TilePlace], others: Sequence[TilePlace]) -> set[str]:
    """Find the tiles that touch one of the others: same source, and shared pixels, edge or corner.

    Args:
        tiles: tiles to judge.
        others: tiles that must not be touched. A tile without a window fills its source.

    Returns:
        Keys of the tiles that touch.
    """
    cells = GridIndex(others)
    return {tile.key for tile in tiles if any(True for _ in cells.near(tile))}
