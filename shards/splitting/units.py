"""Units of a split: which tiles go to a part together, so that one place on Earth is in one part."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from mkd.geo.place.footprints import CONTACT, OVERLAP, Floats, Ints, reproject_outlines
from shards.progress import list_first, pluralize
from shards.splitting.neighbours import TileMap, TilePlace

_log = logging.getLogger(__name__)

Block = tuple[str, int, int]  # source, block row, block column; (source, 0, 0) for a whole source

_TOLERANCE = 0.1  # pixels that a tile may reach into the next block, as coordinates are rounded


def unit_of_tiles(tiles: TileMap, block: int | None) -> list[Block | None]:
    """Name the unit of each tile: its block, or its source; None for a tile that straddles blocks.

    Sources that share ground are one unit of `--by source`. Blocks of sources that touch are those of the first.

    Args:
        tiles: all tiles.
        block: edge of a block, pixels; None = whole sources.
    """
    shared = group_sources(tiles, OVERLAP)
    _report_shared_ground(
        tiles, shared, "goes to one part" if block is None else "is cut into one set of blocks"
    )
    if block is None:
        return [(tiles.source_names[shared[source]], 0, 0) for source in tiles.sources]
    groups = group_sources(tiles, CONTACT)
    alone = np.bincount(groups, minlength=len(groups))[groups] == 1
    units = [
        block_of(place, block) if alone[source] and place.window is not None else None
        for place, source in zip(tiles.places, tiles.sources, strict=True)
    ]
    # Where rasters touch, or tiles have no window, blocks lie in the world.
    rows = np.flatnonzero(
        [not alone[s] or p.window is None for p, s in zip(tiles.places, tiles.sources, strict=True)]
    )
    root = groups[tiles.sources[rows]]
    order = np.argsort(root, kind="stable")
    for members in np.split(rows[order], np.flatnonzero(np.diff(root[order])) + 1) if len(rows) else []:
        for row, unit in zip(members, _world_blocks(tiles, members, block), strict=True):
            units[row] = unit
    return units


def block_of(place: TilePlace, block: int | None) -> Block | None:
    """Name the block of a tile's own raster that holds it.

    Args:
        place: the tile; its window is needed when there are blocks.
        block: edge of a block, pixels; None = whole sources.

    Returns:
        (source, row // block, column // block), or None when the tile straddles blocks.
    """
    if block is None:
        return (place.source, 0, 0)
    assert place.window is not None, "checked by the caller"
    row, col, height, width = place.window
    first = (row // block, col // block)
    last = ((row + height - 1) // block, (col + width - 1) // block)
    return (place.source, *first) if first == last else None


def group_sources(tiles: TileMap, margin: float) -> Ints:
    """Group the sources whose tiles touch (`CONTACT`), or share ground (`OVERLAP`), directly or by others.

    Returns:
        (sources,) number of the first source of each one's group.
    """
    roots = list(range(len(tiles.source_names)))

    def find(source: int) -> int:
        while roots[source] != source:
            roots[source] = source = roots[roots[source]]
        return source

    placed = np.flatnonzero(tiles.placed)
    if len(np.unique(tiles.sources[placed])) > 1:
        for one, other in tiles.pairs(placed, placed, margin):
            links = np.stack([tiles.sources[one], tiles.sources[other]], axis=1)
            for a, b in np.unique(links[links[:, 0] < links[:, 1]], axis=0):
                first, second = find(int(a)), find(int(b))
                roots[max(first, second)] = min(first, second)
    return np.array([find(source) for source in range(len(roots))], np.int64)


def _world_blocks(tiles: TileMap, rows: Ints, block: int) -> list[Block | None]:
    """Name the blocks of tiles of one group, in the pixel grid of the group's first tile's source."""
    anchor = rows[0]
    corners = _in_pixels_of(tiles, int(anchor), rows)
    low = np.floor((corners.min(axis=1) + _TOLERANCE) / block)
    high = np.ceil((corners.max(axis=1) - _TOLERANCE) / block) - 1
    source = tiles.places[anchor].source
    return [
        (source, int(row), int(col)) if whole else None
        for (row, col), whole in zip(low, (low >= high).all(axis=1), strict=True)
    ]


def _in_pixels_of(tiles: TileMap, anchor: int, rows: Ints) -> Floats:
    """Return the corners (K, 4, 2) of tiles as rows and columns of the raster that one tile was cut from."""
    feet, window = tiles.footprints, tiles.places[anchor].window
    corners = feet.outlines(rows)
    for frame in np.unique(feet.frames[rows]):
        if frame != feet.frames[anchor]:
            some = feet.frames[rows] == frame
            corners[some] = reproject_outlines(
                corners[some], feet.names[frame], feet.names[feet.frames[anchor]]
            )
    a, b, c, d, e, f = feet.transforms[anchor]
    col, row = np.moveaxis(np.linalg.solve([[a, b], [d, e]], (corners - (c, f))[..., None])[..., 0], -1, 0)
    top, left = (window.row, window.col) if window is not None else (0, 0)
    return np.stack([row + top, col + left], axis=-1)


def _report_shared_ground(tiles: TileMap, groups: Ints, what: str) -> None:
    """Warn of sources over the same ground: dates of one place, or overlapping sheets."""
    if text := shared_ground_text(tiles.source_names, groups):
        _log.warning("note: %s: each such place %s", text, what)


def shared_ground_text(names: Sequence[str], groups: Ints) -> str:
    """Say which sources lie on the same ground; "" when none do."""
    sizes = np.bincount(groups, minlength=len(groups))
    many = np.flatnonzero(sizes > 1)
    if not len(many):
        return ""
    example = [names[number] for number in np.flatnonzero(groups == many[0]).tolist()]
    places = "in one place" if len(many) == 1 else f"in {len(many):,} places, such as"
    return f"{pluralize(int(sizes[many].sum()), 'source')} share ground with another, {places}: {list_first(example)}"
