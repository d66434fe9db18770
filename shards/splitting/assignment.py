"""Plan of a split: the part of each tile, decided from the tiles' KEY.json alone."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from mkd.dataset.index import DatasetIndex
from mkd.storage.folder import Folder
from shards.progress import pluralize
from shards.reading.shard_reader import read_metas
from shards.splitting.blocks import Parts, draw_few_shots, split_places
from shards.splitting.neighbours import TilePlace, place_of
from shards.splitting.stratified import draw_stratified

_log = logging.getLogger(__name__)

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class SplitOptions:
    """How a data set is split.

    Attributes:
        by: "block" (squares of each source raster), "source" (whole rasters or images), or None: no such split, all
            tiles count as training tiles for `labelled`.
        block: edge of a block, pixels.
        fractions: shares of train, val and test, sum 1; a part of share 0 is not made.
        seed: decides which blocks and which few shots; one seed, one result.
        labelled: number of training tiles that keep their labels; the others lose theirs. A smaller number gives a
            subset of a larger one. None = no few-shot subsets.
        stratify: draw these tiles so that each class is among them.
        unlabelled: number of the other training tiles that are kept, without labels. A smaller number gives a subset of
            a larger one. None = all of them where `labelled` is given.
    """

    by: str | None = None
    block: int = 2048
    fractions: Sequence[float] = (0.7, 0.1, 0.2)
    seed: int = 0
    labelled: int | None = None
    stratify: bool = False
    unlabelled: int | None = None


def read_tile_places(source: str | os.PathLike[str], index: DatasetIndex) -> list[tuple[TilePlace, bool]]:
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
    tiles: Sequence[tuple[TilePlace, bool]],
    options: SplitOptions,
    held: Mapping[str, frozenset[int]] = MappingProxyType({}),
) -> Parts:
    """Decide which tile goes to which part.

    Args:
        tiles: place of each tile, and whether it has a label, in the order of the data set.
        options: how to split, and how many few shots to draw.
        held: class ids of each labelled tile by its key, to stratify.

    Returns:
        Keys of each part that has any, in the order of the data set; tiles left out, by reason.

    Raises:
        ValueError: nothing to do, tiles without a place, too few blocks or labels, or a part that is left empty.
    """
    places = [place for place, _ in tiles]
    if options.stratify and options.labelled is None:
        raise ValueError("--stratify draws few shots: give their number too, such as --labelled 20")
    # Split by place, or take all tiles for training tiles.
    if options.by is None:
        if options.labelled is None and options.unlabelled is None:
            raise ValueError("nothing to do: give --by block or --by source, or --labelled N, or both")
        keys, dropped = {"train": [place.key for place in places]}, dict[str, int]()
    else:
        _check_places(places, options.by, options.block)
        block = options.block if options.by == "block" else None
        keys, dropped = split_places(places, block, _part_fractions(options.fractions), options.seed)
    # Draw few shots among the training tiles; all others become unlabelled ones.
    if options.labelled is not None:
        with_label = {place.key for place, has_label in tiles if has_label}
        candidates = [key for key in keys["train"] if key in with_label]
        if options.stratify:
            chosen = draw_stratified(candidates, held, options.labelled, options.seed)
        else:
            chosen = draw_few_shots(candidates, options.labelled, options.seed)
        keys["labelled"] = [key for key in keys["train"] if key in chosen]
        keys["unlabelled"] = [key for key in keys["train"] if key not in chosen]
    if options.unlabelled is not None:
        others = keys.get("unlabelled", keys["train"])
        if not 1 <= options.unlabelled <= len(others):
            raise ValueError(
                f"--unlabelled {options.unlabelled}: the training tiles without those of --labelled are {len(others)}, "
                f"choose 1..{len(others)}"
            )
        kept = draw_few_shots(others, options.unlabelled, options.seed)
        keys["unlabelled"] = [key for key in others if key in kept]
    if options.by is None:
        del keys["train"]
    return Parts({part: part_keys for part, part_keys in keys.items() if part_keys}, dropped)


def _check_places(places: Sequence[TilePlace], by: str, block: int) -> None:
    if by not in ("block", "source"):
        raise ValueError(
            f"--by {by!r}: allowed are block and source (random tiles would leak into the test set)"
        )
    if by == "block" and block < 1:
        raise ValueError(f"--block {block}: the edge of a block must be at least 1 pixel")
    whole = [place.key for place in places if place.window is None and place.placement is None]
    if by == "block" and whole:
        raise ValueError(
            f"{pluralize(len(whole), 'tile')} have no window in a source raster, such as {whole[0]}: use "
            "--by source, or cut the rasters with `shards tile`"
        )
    if whole:
        _log.warning(
            "note: %s have no window, so each image counts as a source of its own; if "
            "they are chips of one mosaic, neighbours may come to both sides: tile the mosaic instead",
            pluralize(len(whole), "tile"),
        )


def _part_fractions(fractions: Sequence[float]) -> dict[str, float]:
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
