"""Assignment of spatial blocks to parts, and the seeded draw of few shots; no files here."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from shards.splitting.neighbours import GridIndex, TilePlace, touching

_DRAWS = 32

Block = tuple[str, int, int]  # source, block row, block column; (source, 0, 0) for a whole source


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
    units = {place.key: block_of(place, block) for place in places}
    part_of = _best_draw([place for place in places if units[place.key] is not None], units, fractions, seed)
    parts: dict[str, list[TilePlace]] = {part: [] for part in fractions}
    for place in places:
        unit = units[place.key]
        if unit is not None:
            parts[part_of[unit]].append(place)
    dropped = {"straddling blocks": sum(unit is None for unit in units.values())}
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


def block_of(place: TilePlace, block: int | None) -> Block | None:
    """Name the block that holds a tile.

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
    pool = sorted(keys, key=lambda key: seeded_rank(seed, key))
    check_number(number, len(pool))
    return set(pool[:number])


def check_number(number: int, available: int) -> None:
    """Check how many few shots are asked for.

    Raises:
        ValueError: more than there are, or none.
    """
    if not available:
        raise ValueError(
            f"--labelled {number}: no training tile has a label, so there are no few shots to draw"
        )
    if not 1 <= number <= available:
        raise ValueError(
            f"--labelled {number}: the training tiles with labels are {available}, choose 1..{available}"
        )


def seeded_rank(seed: int | str, name: str) -> bytes:
    """Rank a name in the random order of a seed: SHA-256 of both, the same with any library."""
    return hashlib.sha256(f"{seed} {name}".encode()).digest()


def _best_draw(
    places: Sequence[TilePlace], units: Mapping[str, Block | None], fractions: Mapping[str, float], seed: int
) -> dict[Block, str]:
    """Draw several assignments and keep the one that comes nearest to fraction * tiles after its losses."""
    cells, groups = GridIndex(places), Counter[tuple[Block, frozenset[Block]]]()
    for place in places:
        unit = units[place.key]
        assert unit is not None, "straddling tiles are not passed in"
        around = {units[other.key] for other in cells.near(place)} - {unit, None}
        groups[unit, frozenset(other for other in around if other is not None)] += 1
    sizes = Counter(unit for unit in units.values() if unit is not None)
    draws = [assign_blocks(sizes, fractions, f"{seed}/{attempt}") for attempt in range(_DRAWS)]
    return min(draws, key=lambda part_of: _distance(part_of, groups, fractions))


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
