"""One map made by several processes: each predicts some bands of rows, rank 0 puts them together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from mkd.distributed.world import World
from mkd.geo.class_map import Legend
from mkd.inference.band_predictor import BandPredictor
from mkd.inference.map_writer import MapSummary, write_map
from mkd.inference.row_parts import RowParts
from mkd.inference.window_progress import window_progress


@dataclass(frozen=True)
class RowPlan:
    """What is to be made of one raster: `missing` are the first rows of the bands; None: the map is there already."""

    source: str
    output: str
    made_of: str
    missing: list[int] | None


def predict_rows(
    predictor: BandPredictor, plan: RowPlan, world: World, legend: Legend, title: str
) -> MapSummary | None:
    """Predict this rank's share of the missing bands; rank 0 then writes the map and removes the parts.

    The ranks meet at no collective call: a slow rank may take hours longer than a fast one. Rank 0 waits for the files
    of the others; they do not wait for it.

    Args:
        predictor: of the raster, the same on all ranks.
        plan: of rank 0, on all ranks.
        world: this rank among the others.
        legend: names, colours and tags of the map.
        title: what the progress is called.

    Returns:
        Counts of the map on rank 0, None elsewhere.
    """
    assert plan.missing is not None
    parts = RowParts(Path(plan.output), plan.made_of)
    stretches = list(_stretches(predictor, _share(plan.missing, world.rank, world.ranks)))
    total = sum(predictor.windows_of(first, stop) for first, stop in stretches)
    if total:
        name = f"{title}, rank {world.rank}" if world.ranks > 1 else title
        with window_progress(total, name) as advance:
            for first, stop in stretches:
                for band in predictor.bands(first, stop, advance):
                    parts.write(band)
    if not world.is_main:
        return None
    summary = write_map(Path(plan.output), legend, predictor.reader, parts.bands(predictor.edges[:-1]))
    parts.remove()
    return summary


def _share(rows: Sequence[int], rank: int, ranks: int) -> Sequence[int]:
    """Return the rank's part of the missing bands: neighbours, as the first of a stretch takes windows above it."""
    return rows[len(rows) * rank // ranks : len(rows) * (rank + 1) // ranks]


def _stretches(predictor: BandPredictor, rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, stop) for each run of neighbouring bands."""
    numbers = [predictor.edges.index(row) for row in rows]
    cuts = [0, *(n for n, (a, b) in enumerate(pairwise(numbers), 1) if b != a + 1), len(numbers)]
    for start, end in pairwise(cuts):
        if start < end:
            yield numbers[start], numbers[end - 1] + 1
