"""Leaks: tiles of one set on the ground of another, as far as records tell where tiles lie."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mkd.dataset.index import ShardInfo
from mkd.storage.folder import Folder
from shards.progress import pluralize
from shards.reading.shard_reader import read_metas
from shards.splitting.neighbours import TileMap, TilePlace, place_of


class Leaks(NamedTuple):
    """Tiles that touch tiles of another set, and those of which nobody can know it; keys of both."""

    touching: Sequence[str]
    unknown: Sequence[str]

    @property
    def number(self) -> int | None:
        """Number of tiles that touch; None when none is found and of some nobody knows."""
        return len(self.touching) if self.touching or not self.unknown else None

    def text(self) -> str:
        """Say it in words: "0", or "unknown for 12 tiles, ..."."""
        if not self.unknown:
            return f"{len(self.touching):,}"
        why = f"unknown for {pluralize(len(self.unknown), 'tile')}, such as {self.unknown[0]}: no CRS and transform"
        return f"{len(self.touching):,}, {why}" if self.touching else why


def find_leaks(tiles: Sequence[TilePlace], others: Sequence[TilePlace]) -> Leaks:
    """Find the tiles that lie on ground of others.

    Args:
        tiles: tiles to judge, such as those for testing.
        others: tiles that must not be touched, such as those for training.
    """
    tile_map, numbers = TileMap([*tiles, *others]), np.arange(len(tiles) + len(others))
    own, foreign = numbers[: len(tiles)], numbers[len(tiles) :]
    touching = tile_map.touching(own, foreign)
    unknown = np.setdiff1d(tile_map.unknown(own, foreign), touching)
    return Leaks([tiles[row].key for row in touching], [tiles[row].key for row in unknown])


def read_places(folder: Folder, shards: Iterable[ShardInfo]) -> list[TilePlace]:
    """Read where the tiles of some shards lie."""
    return [place_of(key, meta) for key, meta, _ in read_metas(folder, shards)]
