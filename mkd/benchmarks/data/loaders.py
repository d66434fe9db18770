"""Loading, measured: our loader beside other libraries' on the same tiles, and from S3 beside from disk."""

from __future__ import annotations

import shutil
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mkd.benchmarks.contenders import median_ratio, medians, run_interleaved
from mkd.benchmarks.data.packing import pack_seconds, shard_size
from mkd.benchmarks.data.runner import run_ours, run_peer
from mkd.benchmarks.data.s3_server import s3_server
from mkd.benchmarks.settings import DataSpeedRun

LoaderRun = Callable[[], dict[str, Any]]
Runs = dict[str, list[dict[str, Any]]]
RATIO_KEYS = {  # contender: the key of our rate over its rate
    "webdataset torchrgb": "loader_vs_webdataset",
    "webdataset torchrgb8": "loader_vs_webdataset_uint8",
    "litdata": "loader_vs_litdata",
    "mosaicml-streaming": "loader_vs_mosaic",
    "bare decode": "loader_vs_decode",
}


def measure_loaders(config: DataSpeedRun, folder: Path) -> dict[str, Any]:
    """Load the tiles with every loader in interleaved rounds, and decode them without one."""
    images = str(folder / "tiles" / "images")
    data, common = _packed_set(config, folder), _common(config)
    loaders: dict[str, LoaderRun] = {
        "ours": lambda: run_ours("load", {"data": data, **common}),
        "bare decode": lambda: run_ours("decode", {"images": images, "size": config.size, **common}),
        **_peers(config, folder, images, data),
    }
    runs: Runs = {}
    rates = _interleaved_rates(loaders, config.rounds, runs)
    return {
        **{
            key: median_ratio(rates["ours"], rates[name]) for name, key in RATIO_KEYS.items() if name in rates
        },
        "rss_growth": statistics.median(run["rss_growth"] for run in runs["ours"]),
        "tiles_per_second": medians(rates),
        "decoders": run_ours("decoders", {"images": images}),
        "loader_runs": runs,
    }


def measure_s3(config: DataSpeedRun, folder: Path) -> dict[str, Any]:
    """Load from the disk and from an S3 server on this machine in interleaved rounds."""
    data, common = _packed_set(config, folder), _common(config)
    runs: Runs = {}
    with s3_server(folder / "s3") as (bucket, aws):
        url = f"{bucket}/set"
        run_ours("copy", {"data": data, "url": url}, aws)
        loaders: dict[str, LoaderRun] = {
            "from disk": lambda: run_ours("load", {"data": data, **common}),
            "from S3": lambda: run_ours("load", {"data": url, **common}, aws),
        }
        rates = _interleaved_rates(loaders, config.rounds, runs)
    return {
        "s3_vs_local": median_ratio(rates["from S3"], rates["from disk"]),
        "s3_tiles_per_second": medians(rates),
        "s3_runs": runs,
    }


def _peers(config: DataSpeedRun, folder: Path, images: str, data: str) -> dict[str, LoaderRun]:
    """Write the tiles in each library's own format and return how it loads them; webdataset reads our shards."""
    common, scratch = _common(config), folder / "scratch"

    def webdataset(kind: str) -> LoaderRun:
        given = {"data": data, "decode": kind, **common}
        return lambda: run_peer(sys.executable, "load_webdataset", scratch, given)

    loaders = {f"webdataset {kind}": webdataset(kind) for kind in ("torchrgb", "torchrgb8")}
    if config.peers is None:
        print("peers=null: litdata and mosaicml-streaming are not measured")
        return loaders
    python = config.peers
    for name, kind in (("litdata", "litdata"), ("mosaicml-streaming", "mosaic")):
        out = folder / kind
        shutil.rmtree(out, ignore_errors=True)
        run_peer(
            python, f"make_{kind}", scratch, {"images": images, "out": str(out), "workers": config.workers}
        )
        given = {"data": str(out), **common}
        loaders[name] = partial(run_peer, python, f"load_{kind}", scratch, given)
    return loaders


def _interleaved_rates(loaders: dict[str, LoaderRun], rounds: int, runs: Runs) -> dict[str, list[float]]:
    """Run all loaders in interleaved rounds and return their rates; ``runs`` gets all their figures."""

    def rate(name: str) -> float:
        found = loaders[name]()
        runs.setdefault(name, []).append(found)
        return float(found["rate"])

    return run_interleaved({name: partial(rate, name) for name in loaders}, rounds, "tiles/s")


def _common(config: DataSpeedRun) -> dict[str, int]:
    return {"batch": config.batch, "workers": config.workers, "tiles": config.tiles}


def _packed_set(config: DataSpeedRun, folder: Path) -> str:
    """Pack the tiles, read the result once and return its folder."""
    data = folder / "set"
    # Always packed again: a set of another version of this program, or of other tiles, would be measured instead.
    shutil.rmtree(data, ignore_errors=True)
    pack_seconds(folder / "tiles", data, shard_size(config), config.workers, keep=True)
    # Packing leaves nothing in the page cache, and the loaders are compared with a warm one.
    for path in data.iterdir():
        path.read_bytes()
    return str(data)
