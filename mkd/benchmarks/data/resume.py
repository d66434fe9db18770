"""How long it takes to resume late in an epoch of many tiles: nothing before that place is read."""

from __future__ import annotations

import os
import shutil
import statistics
from pathlib import Path
from typing import Any

from mkd.benchmarks.data.ours import UNLABELLED_TILES
from mkd.benchmarks.data.packing import SHARD, pack_seconds
from mkd.benchmarks.data.runner import run_ours
from mkd.benchmarks.data.tiles import make_tiles
from mkd.benchmarks.settings import DataSpeedRun

SIZE = 64  # pixels of a tile: finding a tile is measured, not decoding it
DISTINCT = 256  # tiles that are different; the others are links to them
MULTIPLE = 17  # of the configured number of tiles; `UNLABELLED_TILES` at most


def measure_resume(config: DataSpeedRun, folder: Path) -> dict[str, Any]:
    """Pack many small tiles and resume at 90 % of an epoch of them, in fresh processes."""
    number, source, data = (
        min(UNLABELLED_TILES, MULTIPLE * config.tiles),
        folder / "many",
        folder / "many_set",
    )
    make_linked_tiles(source, number)
    shutil.rmtree(data, ignore_errors=True)
    pack_seconds(source, data, min(SHARD, -(-number // 4)), config.workers, keep=True)
    given = {"data": str(data), "batch": config.batch, "workers": config.workers}
    runs = [run_ours("resume", given) for _ in range(config.rounds)]
    for place in (source, data):
        shutil.rmtree(place)
    median = statistics.median(run["seconds"] for run in runs)
    return {"resume_seconds": median, "resume_tiles": number, "resume_runs": runs}


def make_linked_tiles(folder: Path, number: int) -> None:
    """Write a folder of small tiles, most of them hard links to the first ones."""
    shutil.rmtree(folder, ignore_errors=True)
    first = sorted(make_tiles(folder, min(number, DISTINCT), SIZE, None).iterdir())
    for tile in range(len(first), number):
        place = first[tile % len(first)]
        os.link(place, place.with_name(f"{tile:06d}.jpg"))
