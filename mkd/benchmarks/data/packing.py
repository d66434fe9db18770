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

from mkd.benchmarks.data.runner import PEERS, by_turns, medians, quietly, ratio
from mkd.benchmarks.settings import DataSpeedRun

SHARD = 256  # tiles a shard, when there are enough of them


def measure_packing(config: DataSpeedRun, folder: Path) -> dict[str, Any]:
    """Pack the tiles of `folder` by turns in three ways; as many processes as the loader has workers.

    All three are timed as whole commands. ShardWriter's loop alone is measured too: the start of its library is not
    its work, though a person waits for it.
    """
    source, out, alone = folder / "tiles", folder / "packed", list[float]()
    size, workers = shard_size(config), config.workers
    shutil.rmtree(out, ignore_errors=True)
    seconds = by_turns(
        {
            "pack": lambda: pack_seconds(source, out, size, workers),
            "webdataset.ShardWriter": lambda: shardwriter_seconds(source, out, size, workers, alone),
            "tar + sha256sum": lambda: tar_seconds(source, out),
        },
        config.rounds,
        "s to pack",
    )
    seconds["ShardWriter's loop alone"] = alone
    return {
        "pack_vs_shardwriter": ratio(seconds["webdataset.ShardWriter"], seconds["pack"]),
        "pack_vs_shardwriter_loop": ratio(alone, seconds["pack"]),
        "pack_vs_tar": ratio(seconds["tar + sha256sum"], seconds["pack"]),
        "pack_seconds": seconds,
        "pack_tiles_per_second": {name: config.tiles / each for name, each in medians(seconds).items()},
    }


def shard_size(config: DataSpeedRun) -> int:
    """Return tiles a shard: fewer for few tiles, since webdataset refuses a worker without a shard."""
    return max(1, min(SHARD, config.tiles // (4 * config.workers)))


def pack_seconds(source: Path, out: Path, size: int, workers: int, keep: bool = False) -> float:
    """Pack the tiles with `python -m shards pack`: seconds of the whole command."""
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
        quietly(command)

    return _timed(work, out, keep)


def tar_seconds(source: Path, out: Path) -> float:
    """Put the tiles into one tar and take its SHA-256: seconds of both commands."""

    def work() -> None:
        out.mkdir(parents=True)
        quietly(["tar", "-cf", str(out / "all.tar"), "-C", str(source), "images"])
        quietly(["sha256sum", str(out / "all.tar")])

    return _timed(work, out)


def shardwriter_seconds(source: Path, out: Path, size: int, workers: int, alone: list[float]) -> float:
    """Write the JPEGs with webdataset.ShardWriter in some processes: seconds of the whole commands.

    Args:
        source: folder with ``images/``.
        out: where to; removed at the end.
        size: tiles a shard.
        workers: processes, each with an equal part of the tiles.
        alone: takes the seconds of reading and writing alone, without start, imports and end of the processes.
    """
    given = {"images": str(source / "images"), "shard_size": size, "parts": workers}

    def work() -> None:
        out.mkdir(parents=True)
        processes = []
        for part in range(workers):
            said = json.dumps({**given, "part": part, "pattern": str(out / f"{part}-%06d.tar")})
            command = [sys.executable, "-I", str(PEERS), "write_shards", said]
            processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        printed = [process.communicate()[0] for process in processes]
        if any(process.returncode for process in processes):
            raise ValueError("webdataset.ShardWriter did not end well; see above")
        alone.append(max(json.loads(text.splitlines()[-1])["seconds"] for text in printed))

    return _timed(work, out)


def _timed(work: Callable[[], None], out: Path, keep: bool = False) -> float:
    """Time some work that writes to `out`, after what was written before is on the disk."""
    os.sync()
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    if not keep:
        shutil.rmtree(out)
    return seconds
