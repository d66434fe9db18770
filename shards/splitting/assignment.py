"""Which tile goes to which part of a split, decided from the tiles' KEY.json alone."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mkd.dataset.index import DatasetIndex
from mkd.storage.folder import Folder
from shards.progress import Say, counted
from shards.reading.shard_reader import read_metas
from shards.splitting.blocks import Parts, draw, split_places
from shards.splitting.neighbours import Place, place_of

PARTS = ("train", "val", "test")


def read_places(source: str | os.PathLike[str], index: DatasetIndex) -> list[tuple[Place, bool]]:
    """Read where each tile of a data set lies, and whether it has a label.

    Args:
        source: the data set, path or URL.
        index: its index.

    Returns:
        One entry a tile, in the order of the data set.
    """
    metas = read_metas(Folder(source), index.shards)
    return [(place_of(key, meta), labelled) for key, meta, labelled in metas]


def plan_parts(
    tiles: Sequence[tuple[Place, bool]],
    by: str | None,
    block: int,
    fractions: Sequence[float],
    seed: int,
    labelled: int | None,
    say: Say,
) -> Parts:
    """Decide which tile goes where."""
    places = [place for place, _ in tiles]
    if by is None:
        if labelled is None:
            raise ValueError("nothing to do: give --by block or --by source, or --labelled N, or both")
        keys, dropped = {"train": [place.key for place in places]}, dict[str, int]()
    else:
        _check_places(places, by, block, say)
        keys, dropped = split_places(places, block if by == "block" else None, _shares(fractions), seed)
    if labelled is not None:
        with_label = {place.key for place, has_label in tiles if has_label}
        chosen = draw([key for key in keys["train"] if key in with_label], labelled, seed)
        keys["labelled"] = [key for key in keys["train"] if key in chosen]
        keys["unlabelled"] = [key for key in keys["train"] if key not in chosen]
    if by is None:
        del keys["train"]
    return Parts({part: chosen_keys for part, chosen_keys in keys.items() if chosen_keys}, dropped)


def _check_places(places: Sequence[Place], by: str, block: int, say: Say) -> None:
    if by not in ("block", "source"):
        raise ValueError(
            f"--by {by!r}: allowed are block and source (random tiles would leak into the test set)"
        )
    whole = sum(place.window is None for place in places)
    if by == "block" and block < 1:
        raise ValueError(f"--block {block}: the edge of a block must be at least 1 pixel")
    if by == "block" and whole:
        raise ValueError(
            f"{counted(whole, 'tile')} have no window in a source raster, such as {places[0].key}: use "
            "--by source, or cut the rasters with `shards tile`"
        )
    if whole:
        say(
            f"note: {counted(whole, 'tile')} have no window, so each image counts as a source of its own; if "
            "they are chips of one mosaic, neighbours may come to both sides: tile the mosaic instead"
        )


def _shares(fractions: Sequence[float]) -> dict[str, float]:
    shares = dict(zip(PARTS, fractions, strict=False))
    if (
        len(fractions) != len(PARTS)
        or not all(share >= 0 for share in fractions)  # nan is neither above nor below
        or abs(sum(fractions) - 1) > 1e-6
        or not fractions[0]
    ):
        raise ValueError(
            f"--fractions {','.join(map(str, fractions))}: give three shares for train, val and test "
            "with sum 1, train above 0, such as 0.7,0.1,0.2"
        )
    return {part: share for part, share in shares.items() if share > 0}
