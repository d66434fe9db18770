"""Assignment of spatial blocks to parts, and the seeded draw of few shots; no files here."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from shards.progress import pluralize
from shards.splitting.neighbours import TileMap, TilePlace, touching
from shards.splitting.units import Block, unit_of_tiles

_DRAWS = 32


class Parts(NamedTuple):
    """Keys of each part, in the order of the data set, and tiles left out, by reason."""

    keys: dict[str, list[str]]
    dropped: dict[str, int]


def split_places(
    places: Sequence[TilePlace], block: int | None, fractions: Mapping[str, float], seed: int
) -> Parts:
    """Split tiles by place, so that no test tile touches a training tile.

    Blocks (or sources) go to parts; a tile that straddles blocks goes nowhere; then validation tiles that
    touch a test tile, and training tiles that touch a validation or test tile, are left out. Of 32 seeded
    draws the one counts whose parts, after that, are nearest to fraction * tiles.

    Args:
        places: all tiles.
        block: edge of a block, pixels; None = whole sources.
        fractions: share of each part ("train", "val", "test"), each > 0, sum 1.
        seed: decides which block goes where.

    Returns:
        The parts and what was left out.

    Raises:
        ValueError: fewer blocks than parts, or a part that is left empty.
    """
    tiles = TileMap(places)
    units = unit_of_tiles(tiles, block)
    grounds, sources = len(set(units)), len(tiles.source_names)
    if block is None and grounds < min(sources, len(fractions)):
        raise ValueError(
            f"{sources} sources share ground and make {pluralize(grounds, 'place')}, which cannot fill "
            f"{len(fractions)} parts ({', '.join(fractions)}): use --by block, which cuts through a place, "
            "sources of more places, or fewer parts (a fraction of 0)"
        )
    part_of = _best_draw(tiles, units, fractions, seed)
    parts: dict[str, list[TilePlace]] = {part: [] for part in fractions}
    for place, unit in zip(places, units, strict=True):
        if unit is not None:
            parts[part_of[unit]].append(place)
    dropped = {"straddling blocks": sum(unit is None for unit in units)}
    kept: list[TilePlace] = []
    for part in ("test", "val", "train"):
        if part in parts:
            near = touching(parts[part], kept)
            parts[part] = [place for place in parts[part] if place.key not in near]
            if kept:
                dropped[f"{part} tiles touching another part"] = len(near)
            kept += parts[part]
    _check_none_empty(parts, dropped)
    return Parts({part: [place.key for place in tiles] for part, tiles in parts.items()}, dropped)


def assign_blocks(
    sizes: Mapping[Block, int], fractions: Mapping[str, float], seed: int | str
) -> dict[Block, str]:
    """Assign blocks to parts so that the parts' tile shares come near the fractions.

    Largest blocks first, those of one size in the order of the seed, each to the part that lacks most tiles
    (fraction * total - tiles so far); the last blocks go to parts that are still empty.

    Args:
        sizes: tiles of each block.
        fractions: share of each part, each > 0, sum 1.
        seed: any whole number.

    Returns:
        The part of each block; no part is empty.

    Raises:
        ValueError: fewer blocks than parts.
    """
    if len(sizes) < len(fractions):
        raise ValueError(
            f"{len(sizes)} blocks or sources cannot fill {len(fractions)} parts ({', '.join(fractions)}): "
            "use a smaller --block, more sources, or fewer parts (a fraction of 0)"
        )
    total, tiles = sum(sizes.values()), Counter(dict.fromkeys(fractions, 0))
    order = sorted(sizes, key=lambda unit: (-sizes[unit], seeded_rank(seed, repr(unit))))
    parts: dict[Block, str] = {}
    for position, unit in enumerate(order):
        empty = [part for part in fractions if tiles[part] == 0]
        open_to = empty if len(order) - position <= len(empty) else list(fractions)
        parts[unit] = max(open_to, key=lambda part: fractions[part] * total - tiles[part])
        tiles[parts[unit]] += sizes[unit]
    return parts


def draw_few_shots(keys: Iterable[str], number: int, seed: int) -> set[str]:
    """Draw keys at random; for one seed a smaller draw is part of a larger one.

    Args:
        keys: what to draw from.
        number: how many, >= 1.
        seed: any whole number.

    Returns:
        The chosen keys.

    Raises:
        ValueError: more than there are.
    """
    return set(ranked_pool(keys, number, seed)[:number])


def ranked_pool(keys: Iterable[str], number: int, seed: int) -> list[str]:
    """Return the keys in the random order of a seed, once it is known that `number` can be drawn from them.

    Raises:
        ValueError: more than there are, or none.
    """
    pool = sorted(keys, key=lambda key: seeded_rank(seed, key))
    available = len(pool)
    if not available:
        raise ValueError(
            f"--labelled {number}: no training tile has a label, so there are no few shots to draw"
        )
    if not 1 <= number <= available:
        raise ValueError(
            f"--labelled {number}: the training tiles with labels are {available}, choose 1..{available}"
        )
    return pool


def seeded_rank(seed: int | str, name: str) -> bytes:
    """Rank a name in the random order of a seed: SHA-256 of both, the same with any library."""
    return hashlib.sha256(f"{seed} {name}".encode()).digest()


def _best_draw(
    tiles: TileMap, units: Sequence[Block | None], fractions: Mapping[str, float], seed: int
) -> dict[Block, str]:
    """Draw several assignments and keep the one that comes nearest to fraction * tiles after its losses."""
    groups = Counter[tuple[Block, frozenset[Block]]]()
    around = _units_around(tiles, units)
    for row, unit in enumerate(units):
        if unit is not None:
            groups[unit, around.get(row, frozenset())] += 1
    sizes = Counter(unit for unit in units if unit is not None)
    draws = [assign_blocks(sizes, fractions, f"{seed}/{attempt}") for attempt in range(_DRAWS)]
    return min(draws, key=lambda part_of: _distance(part_of, groups, fractions))


def _units_around(tiles: TileMap, units: Sequence[Block | None]) -> dict[int, frozenset[Block]]:
    """Find the other units that tiles touch; tiles inside their unit are left out."""
    names = sorted({unit for unit in units if unit is not None})
    number = {unit: place for place, unit in enumerate(names)}
    numbers = np.array([-1 if unit is None else number[unit] for unit in units], np.int64)
    rows, found = np.flatnonzero(numbers >= 0), defaultdict(set)
    for one, other in tiles.pairs(rows, rows):
        links = np.stack([one, numbers[other]], axis=1)[numbers[one] != numbers[other]]
        for row, unit in np.unique(links, axis=0).tolist():
            found[row].add(names[unit])
    return {row: frozenset(around) for row, around in found.items()}


def _distance(
    part_of: Mapping[Block, str],
    groups: Mapping[tuple[Block, frozenset[Block]], int],
    fractions: Mapping[str, float],
) -> float:
    """Sum |tiles kept - fraction * all tiles| over the parts; an empty part is worse than any other draw."""
    kept = Counter(dict.fromkeys(fractions, 0))
    for (unit, around), tiles in groups.items():
        part, others = part_of[unit], {part_of[other] for other in around}
        lost = others - {part} if part == "train" else others & {"test"} if part == "val" else set()
        kept[part] += 0 if lost else tiles
    total = sum(groups.values())
    empty = sum(kept[part] == 0 for part in fractions)
    return sum(abs(kept[part] - share * total) for part, share in fractions.items()) + 2 * total * empty


def _check_none_empty(parts: Mapping[str, Sequence[TilePlace]], dropped: Mapping[str, int]) -> None:
    empty = [part for part, tiles in parts.items() if not tiles]
    if empty:
        lost = ", ".join(f"{reason}: {tiles}" for reason, tiles in dropped.items())
        raise ValueError(f"no tile is left for {' and '.join(empty)} ({lost}): use another --block or --seed")
