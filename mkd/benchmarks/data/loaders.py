"""Loading, measured: our loader beside other libraries' on the same tiles, and from S3 beside from disk."""

from __future__ import annotations

import shutil
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mkd.benchmarks.data.packing import pack_seconds, shard_size
from mkd.benchmarks.data.runner import by_turns, medians, ours, peer, ratio
from mkd.benchmarks.data.s3_server import s3_server
from mkd.benchmarks.settings import DataSpeedRun

Way = Callable[[], dict[str, Any]]
Runs = dict[str, list[dict[str, Any]]]
KEYS = {  # the ratio of ours over each
    "webdataset torchrgb": "loader_vs_webdataset",
    "webdataset torchrgb8": "loader_vs_webdataset_uint8",
    "litdata": "loader_vs_litdata",
    "mosaicml-streaming": "loader_vs_mosaic",
    "bare decode": "loader_vs_decode",
}


def measure_loaders(config: DataSpeedRun, folder: Path) -> dict[str, Any]:
    """Load the tiles of `folder` by turns with every loader, and decode them without one."""
    images = str(folder / "tiles" / "images")
    data, common = _our_set(config, folder), _common(config)
    ways: dict[str, Way] = {
        "ours": lambda: ours("load", {"data": data, **common}),
        "bare decode": lambda: ours("decode", {"images": images, "size": config.size, **common}),
        **_peers(config, folder, images, data),
    }
    runs: Runs = {}
    rates = by_turns({name: _rate(name, way, runs) for name, way in ways.items()}, config.rounds, "tiles/s")
    return {
        **{key: ratio(rates["ours"], rates[name]) for name, key in KEYS.items() if name in rates},
        "rss_growth": statistics.median(run["rss_growth"] for run in runs["ours"]),
        "tiles_per_second": medians(rates),
        "decoders": ours("decoders", {"images": images}),
        "loader_runs": runs,
    }


def measure_s3(config: DataSpeedRun, folder: Path) -> dict[str, Any]:
    """Load by turns from the disk and from an S3 server on this machine."""
    data, common = _our_set(config, folder), _common(config)
    runs: Runs = {}
    with s3_server(folder / "s3") as (bucket, aws):
        url = f"{bucket}/set"
        ours("copy", {"data": data, "url": url}, aws)
        ways: dict[str, Way] = {
            "from disk": lambda: ours("load", {"data": data, **common}),
            "from S3": lambda: ours("load", {"data": url, **common}, aws),
        }
        rates = by_turns(
            {name: _rate(name, way, runs) for name, way in ways.items()}, config.rounds, "tiles/s"
        )
    return {
        "s3_vs_local": ratio(rates["from S3"], rates["from disk"]),
        "s3_tiles_per_second": medians(rates),
        "s3_runs": runs,
    }


def _peers(config: DataSpeedRun, folder: Path, images: str, data: str) -> dict[str, Way]:
    """Make each library's own form of the tiles, and return how it is run; webdataset reads our shards."""
    common, scratch = _common(config), folder / "scratch"

    def webdataset(kind: str) -> Way:
        given = {"data": data, "decode": kind, **common}
        return lambda: peer(sys.executable, "load_webdataset", scratch, given)

    ways = {f"webdataset {kind}": webdataset(kind) for kind in ("torchrgb", "torchrgb8")}
    if config.peers is None:
        print("peers=null: litdata and mosaicml-streaming are not measured")
        return ways
    python = config.peers
    for name, kind in (("litdata", "litdata"), ("mosaicml-streaming", "mosaic")):
        out = folder / kind
        shutil.rmtree(out, ignore_errors=True)
        peer(python, f"make_{kind}", scratch, {"images": images, "out": str(out), "workers": config.workers})
        given = {"data": str(out), **common}
        ways[name] = partial(peer, python, f"load_{kind}", scratch, given)
    return ways


def _rate(name: str, way: Way, runs: Runs) -> Callable[[], float]:
    """Return a run that gives its rate alone and keeps the rest in `runs`."""

    def run() -> float:
        found = way()
        runs.setdefault(name, []).append(found)
        return float(found["rate"])

    return run


def _common(config: DataSpeedRun) -> dict[str, int]:
    return {"batch": config.batch, "workers": config.workers, "tiles": config.tiles}


def _our_set(config: DataSpeedRun, folder: Path) -> str:
    """Pack the tiles anew: a set of another version of this program, or of other tiles, is worth nothing here.

    A build leaves nothing in the page cache, but the loaders are compared with a warm one: it is read once.
    """
    data = folder / "set"
    shutil.rmtree(data, ignore_errors=True)
    pack_seconds(folder / "tiles", data, shard_size(config), config.workers, keep=True)
    for path in data.iterdir():
        path.read_bytes()
    return str(data)
