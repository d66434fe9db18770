"""Packing, measured: `shards pack` beside webdataset.ShardWriter and tar, on the same files and disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkd.benchmarks.contenders import median_ratio, medians, run_interleaved
from mkd.benchmarks.data.runner import PEERS_SCRIPT, run_captured
from mkd.benchmarks.settings import DataSpeedRun

SHARD = 256  # tiles a shard, when there are enough of them


def measure_packing(config: DataSpeedRun, folder: Path) -> dict[str, Any]:
    """Pack the tiles in three interleaved ways, with as many processes as the loader has workers.

    All three are timed as whole commands. ShardWriter's loop is timed by itself too: the import of its library is not
    its work, though a person waits for it.

    Args:
        config: number of tiles, workers, rounds.
        folder: holds ``tiles/``; ``packed/`` is made in it and removed.

    Returns:
        Ratios, seconds of each round, and tiles/s.
    """
    source, out, loop_seconds = folder / "tiles", folder / "packed", list[float]()
    size, workers = shard_size(config), config.workers
    shutil.rmtree(out, ignore_errors=True)
    seconds = run_interleaved(
        {
            "pack": lambda: pack_seconds(source, out, size, workers),
            "webdataset.ShardWriter": lambda: shardwriter_seconds(source, out, size, workers, loop_seconds),
            "tar + sha256sum": lambda: tar_seconds(source, out),
        },
        config.rounds,
        "s to pack",
    )
    seconds["ShardWriter's loop alone"] = loop_seconds
    return {
        "pack_vs_shardwriter": median_ratio(seconds["webdataset.ShardWriter"], seconds["pack"]),
        "pack_vs_shardwriter_loop": median_ratio(loop_seconds, seconds["pack"]),
        "pack_vs_tar": median_ratio(seconds["tar + sha256sum"], seconds["pack"]),
        "pack_seconds": seconds,
        "pack_tiles_per_second": {name: config.tiles / each for name, each in medians(seconds).items()},
    }


def shard_size(config: DataSpeedRun) -> int:
    """Return tiles a shard: fewer for few tiles, because webdataset fails where a worker has no shard."""
    return max(1, min(SHARD, config.tiles // (4 * config.workers)))


def pack_seconds(source: Path, out: Path, size: int, workers: int, keep: bool = False) -> float:
    """Return the seconds of the whole command `python -m shards pack`."""
    command = [sys.executable, "-m", "shards", "pack", "--source", str(source), "--out", str(out)]
    command += [
        "--classes",
        str(source / "classes.yaml"),
        "--shard-size",
        str(size),
        "--workers",
        str(workers),
    ]

    def work() -> None:
        run_captured(command)

    return _timed(work, out, keep)


def tar_seconds(source: Path, out: Path) -> float:
    """Return the seconds of writing the tiles into one tar and of its SHA-256."""

    def work() -> None:
        out.mkdir(parents=True)
        run_captured(["tar", "-cf", str(out / "all.tar"), "-C", str(source), "images"])
        run_captured(["sha256sum", str(out / "all.tar")])

    return _timed(work, out)


def shardwriter_seconds(source: Path, out: Path, size: int, workers: int, loop_seconds: list[float]) -> float:
    """Return the seconds in which processes with webdataset.ShardWriter write the JPEGs, as whole commands.

    Args:
        source: folder with ``images/``.
        out: where to; removed at the end.
        size: tiles a shard.
        workers: processes, each with an equal part of the tiles.
        loop_seconds: gets the seconds of reading and writing, without start, imports and end of the processes.
    """
    given = {"images": str(source / "images"), "shard_size": size, "parts": workers}

    def work() -> None:
        out.mkdir(parents=True)
        processes = []
        for part in range(workers):
            arguments = json.dumps({**given, "part": part, "pattern": str(out / f"{part}-%06d.tar")})
            command = [sys.executable, "-I", str(PEERS_SCRIPT), "write_shards", arguments]
            processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        printed = [process.communicate()[0] for process in processes]
        if any(process.returncode for process in processes):
            raise ValueError("webdataset.ShardWriter failed; its error is above")
        loop_seconds.append(max(json.loads(text.splitlines()[-1])["seconds"] for text in printed))

    return _timed(work, out)


def _timed(work: Callable[[], None], out: Path, keep: bool = False) -> float:
    """Return the seconds of work that writes to ``out``; the folder is removed unless it is kept."""
    os.sync()  # what was written before must not be flushed on this contender's time
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    if not keep:
        shutil.rmtree(out)
    return seconds
