"""Where the tiles of a data set lie: which of them touch, how far apart they are, whether a GIS can place them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mkd.dataset.index import DatasetIndex
from shards.progress import pluralize
from shards.splitting.neighbours import TileMap, place_of

EARTH = 6371.0  # mean radius, km


@dataclass(frozen=True)
class TileNeighbourhood:
    """Places of N tiles.

    Attributes:
        neighbours: of each tile, the numbers of the tiles that touch it, its own among them.
        positions: float64 (N,3), kilometres from the centre of the Earth; NaN where a tile has no place on it.
    """

    neighbours: list[NDArray[np.int64]]
    positions: NDArray[np.float64]


def find_places(metas: Sequence[Mapping[str, Any]], said: list[str]) -> TileNeighbourhood:
    """Take the places of tiles from their KEY.json; what is not known of them is said.

    Args:
        metas: KEY.json of each tile, with its key under ``key``.
        said: gets a sentence about tiles without a place.
    """
    tile_map = TileMap([place_of(str(meta["key"]), meta) for meta in metas])
    lost = int((~tile_map.placed).sum())
    if lost:
        said.append(
            f"{pluralize(lost, 'tile')} without a place on Earth: compared by their windows in their own source only, "
            "and not spread over the ground"
        )
    everyone = np.arange(len(metas))
    touching: list[set[int]] = [{n} for n in range(len(metas))]
    for ones, others in tile_map.pairs(everyone, everyone):
        for one, other in zip(ones.tolist(), others.tolist(), strict=True):
            touching[one].add(other)
            touching[other].add(one)
    return TileNeighbourhood([np.array(sorted(group), np.int64) for group in touching], _positions(tile_map))


def _positions(tile_map: TileMap) -> NDArray[np.float64]:
    """Return the middle of each tile as a point on a sphere: straight distances there order as those on the ground."""
    found = np.full((len(tile_map.places), 3), np.nan)
    if tile_map.placed.any():
        west, south, east, north = tile_map.footprints.lon_lat_boxes[tile_map.placed].T
        lon, lat = np.radians((west + east) / 2), np.radians((south + north) / 2)
        found[tile_map.placed] = EARTH * np.stack(
            [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1
        )
    return found


def gis_obstacle(index: DatasetIndex, metas: Sequence[Mapping[str, Any]]) -> str:
    """Say why no folder for a GIS can be made of these tiles; nothing where it can."""
    places = [place_of(str(meta["key"]), meta).placement for meta in metas]
    if not index.classes:
        return f"{index.name} has no classes, which the labels need: build it again with --classes FILE.yaml"
    if lost := sum(place is None for place in places):
        return f"{pluralize(lost, 'chosen tile')} without a place on Earth"
    if (systems := len({place.crs for place in places if place is not None})) > 1:
        return f"the chosen tiles lie in {systems} CRS: give data sets of one CRS each"
    return ""
