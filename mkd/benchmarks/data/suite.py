"""launch/throughput.py data: our loader and our packing beside other libraries', in one run."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mkd.benchmarks.contenders import requirement_lines
from mkd.benchmarks.data.loaders import measure_loaders, measure_s3
from mkd.benchmarks.data.ours import RANKS, SAMPLES, SHARDS, UNLABELLED_TILES
from mkd.benchmarks.data.packing import SHARD, measure_packing
from mkd.benchmarks.data.resume import measure_resume
from mkd.benchmarks.data.runner import run_ours, run_peer
from mkd.benchmarks.data.tiles import make_tiles, tile_facts
from mkd.benchmarks.reporting import write_json
from mkd.benchmarks.settings import DataSpeedRun

# What is required.
LOWER_BOUNDS = {
    "loader_vs_webdataset": 1.3,
    "loader_vs_litdata": 1.0,
    "loader_vs_mosaic": 1.0,
    "loader_vs_decode": 0.9,
    "s3_vs_local": 0.8,
    "pack_vs_shardwriter": 1.5,
    "pack_vs_tar": 0.7,
}
UPPER_BOUNDS = {"plan_seconds": 1.0, "plan_mib": 200.0, "resume_seconds": 5.0, "rss_growth": 1.05}
COMPARISONS = ("loader_vs_webdataset_uint8", "pack_vs_shardwriter_loop")
RATES = {
    "tiles_per_second": "loading",
    "s3_tiles_per_second": "loading",
    "decoders": "decoding in one process",
    "pack_tiles_per_second": "packing",
}

Found = dict[str, Any]


def measure_data(config: DataSpeedRun) -> None:
    """Measure the configured parts, print a table of ratios and write all figures.

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
    """Return the ratios beside what is required, then the rates."""
    lines = requirement_lines(found, LOWER_BOUNDS, UPPER_BOUNDS)
    for key in COMPARISONS:
        lines += [f"{key:<28} {found[key]:10.3f}   for comparison"] if key in found else []
    for title, unit in RATES.items():
        lines += [f"{name:<28} {rate:10.1f}   tiles/s, {unit}" for name, rate in found.get(title, {}).items()]
    return "\n".join(lines)


def _plan() -> Found:
    """Measure the sampler in fresh processes; return the worse of a large and a huge data set."""
    sizes = (
        {"shards": -(-UNLABELLED_TILES // SHARD), "samples": UNLABELLED_TILES, "ranks": 8},
        {"shards": SHARDS, "samples": SHARDS * SAMPLES, "ranks": RANKS},
    )
    plans = [run_ours("plan", size) for size in sizes]
    worst = {f"plan_{key}": max(each[key] for each in plans) for key in ("seconds", "mib")}
    return {**worst, "plans": [{**size, **each} for size, each in zip(sizes, plans, strict=True)]}


def _settings(config: DataSpeedRun) -> Found:
    return {key: value for key, value in asdict(config).items() if key not in ("json", "out")}


def _machine(config: DataSpeedRun, folder: Path) -> Found:
    """Return what the figures depend on beside the settings."""
    versions = {"ours": run_peer(sys.executable, "versions", folder / "scratch", {})}
    if config.peers is not None and "loader" in config.parts:
        versions["peers"] = run_peer(config.peers, "versions", folder / "scratch", {})
    return {"cores": os.cpu_count(), "python": platform.python_version(), "versions": versions}
