"""Entering an epoch of many tiles late, measured: nothing that lies before is read again."""

from __future__ import annotations

import os
import shutil
import statistics
from pathlib import Path
from typing import Any

from mkd.benchmarks.data.ours import MANY
from mkd.benchmarks.data.packing import SHARD, pack_seconds
from mkd.benchmarks.data.runner import ours
from mkd.benchmarks.data.tiles import make_tiles
from mkd.benchmarks.settings import DataSpeedRun

SIDE = 64  # pixels of a tile: the way to a tile is measured, not its size
DIFFERENT = 256  # tiles that are different; the others are links to them
FEWER = 17  # times the other tiles are as many, where those are too few for `MANY`


def measure_resume(config: DataSpeedRun, folder: Path) -> dict[str, Any]:
    """Pack many small tiles, and enter an epoch of them at 90 % in fresh processes."""
    number, source, data = min(MANY, FEWER * config.tiles), folder / "many", folder / "many_set"
    make_many(source, number)
    shutil.rmtree(data, ignore_errors=True)
    pack_seconds(source, data, min(SHARD, -(-number // 4)), config.workers, keep=True)
    given = {"data": str(data), "batch": config.batch, "workers": config.workers}
    runs = [ours("resume", given) for _ in range(config.rounds)]
    for place in (source, data):
        shutil.rmtree(place)
    median = statistics.median(run["seconds"] for run in runs)
    return {"resume_seconds": median, "resume_tiles": number, "resume_runs": runs}


def make_many(folder: Path, number: int) -> None:
    """Make a folder of small tiles, most of them links to the first ones."""
    shutil.rmtree(folder, ignore_errors=True)
    first = sorted(make_tiles(folder, min(number, DIFFERENT), SIDE, None).iterdir())
    for tile in range(len(first), number):
        place = first[tile % len(first)]
        os.link(place, place.with_name(f"{tile:06d}.jpg"))
