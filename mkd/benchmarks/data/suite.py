"""launch/throughput.py data: our loader and our packing beside other libraries', in one run."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mkd.benchmarks.data.loaders import measure_loaders, measure_s3
from mkd.benchmarks.data.ours import MANY, RANKS, SAMPLES, SHARDS
from mkd.benchmarks.data.packing import SHARD, measure_packing
from mkd.benchmarks.data.resume import measure_resume
from mkd.benchmarks.data.runner import ours, peer
from mkd.benchmarks.data.tiles import make_tiles, tile_facts
from mkd.benchmarks.reporting import write_json
from mkd.benchmarks.settings import DataSpeedRun

# What is asked for: at least, or (where it is the lower the better) at most.
LEAST = {
    "loader_vs_webdataset": 1.3,
    "loader_vs_litdata": 1.0,
    "loader_vs_mosaic": 1.0,
    "loader_vs_decode": 0.9,
    "s3_vs_local": 0.8,
    "pack_vs_shardwriter": 1.5,
    "pack_vs_tar": 0.7,
}
MOST = {"plan_seconds": 1.0, "plan_mib": 200.0, "resume_seconds": 5.0, "rss_growth": 1.05}
ALSO = ("loader_vs_webdataset_uint8", "pack_vs_shardwriter_loop")
RATES = {
    "tiles_per_second": "loading",
    "s3_tiles_per_second": "loading",
    "decoders": "decoding in one process",
    "pack_tiles_per_second": "packing",
}

Found = dict[str, Any]


def measure_data(config: DataSpeedRun) -> None:
    """Measure all parts asked for, print a table of ratios, and write everything measured.

    Raises:
        ValueError: a contender that failed.
    """
    folder = Path(config.out)
    images = make_tiles(folder / "tiles", config.tiles, config.size, config.images)
    found: Found = {"settings": _settings(config), "machine": _machine(config, folder), **tile_facts(images)}
    print(f"{found['tiles']} JPEG tiles of {config.size} x {config.size}, {found['mean_kib']:.0f} KiB each")
    if "plan" in config.parts:
        found |= _plan()
    if "pack" in config.parts:
        found |= measure_packing(config, folder)
    if "loader" in config.parts:
        found |= measure_loaders(config, folder)
    if "s3" in config.parts:
        found |= measure_s3(config, folder)
    if "plan" in config.parts:  # last: its many files keep the disk busy for a while
        found |= measure_resume(config, folder)
    shutil.rmtree(folder / "scratch", ignore_errors=True)
    print("\n" + table(found))
    write_json(config.json, found)


def table(found: Found) -> str:
    """Return the ratios beside what is asked for, then the rates; what was not measured is said."""
    lines = []
    for asked, sign in ((LEAST, ">="), (MOST, "<=")):
        for key, bound in asked.items():
            if key not in found:
                lines.append(f"{key:<28}    not measured")
                continue
            met = found[key] >= bound if asked is LEAST else found[key] <= bound
            lines.append(f"{key:<28} {found[key]:10.3f}   {sign} {bound:<6g} {'met' if met else 'MISSED'}")
    for key in ALSO:
        lines += [f"{key:<28} {found[key]:10.3f}   for comparison"] if key in found else []
    for title, unit in RATES.items():
        lines += [f"{name:<28} {rate:10.1f}   tiles/s, {unit}" for name, rate in found.get(title, {}).items()]
    return "\n".join(lines)


def _plan() -> Found:
    """Measure the plan in fresh processes: the worse of a large and of a huge data set."""
    sizes = (
        {"shards": -(-MANY // SHARD), "samples": MANY, "ranks": 8},
        {"shards": SHARDS, "samples": SHARDS * SAMPLES, "ranks": RANKS},
    )
    plans = [ours("plan", size) for size in sizes]
    worst = {f"plan_{key}": max(each[key] for each in plans) for key in ("seconds", "mib")}
    return {**worst, "plans": [{**size, **each} for size, each in zip(sizes, plans, strict=True)]}


def _settings(config: DataSpeedRun) -> Found:
    return {key: value for key, value in asdict(config).items() if key not in ("json", "out")}


def _machine(config: DataSpeedRun, folder: Path) -> Found:
    """Return what the figures depend on beside the settings."""
    versions = {"ours": peer(sys.executable, "versions", folder / "scratch", {})}
    if config.peers is not None and "loader" in config.parts:
        versions["peers"] = peer(config.peers, "versions", folder / "scratch", {})
    return {"cores": os.cpu_count(), "python": platform.python_version(), "versions": versions}
