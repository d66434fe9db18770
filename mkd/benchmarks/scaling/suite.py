"""launch/throughput.py scaling: steps measured on gloo ranks here, a model beside them, and its word on many GPUs."""

import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mkd.atomic import write_text
from mkd.benchmarks.scaling.devices import MACHINES
from mkd.benchmarks.scaling.predict import WORKS, Network, gloo_split, gpu, network_facts, tile_bytes
from mkd.benchmarks.scaling.runner import (
    Parts,
    few_cores,
    make_data,
    make_start,
    measure,
    measure_link,
    network,
    profile_overlap,
)
from mkd.benchmarks.scaling.tables import report
from mkd.benchmarks.settings import ScalingRun
from mkd.config.constraints import at_least, choice, positive
from mkd.dataset.index import read_index

CLASSES = 6  # of the network on GPUs
LINK_RANKS = 2

Found = dict[str, Any]


def measure_scaling(config: ScalingRun) -> None:
    """Measure steps on this machine, predict them, predict GPUs; print all tables and write everything.

    Raises:
        ValueError: a run that failed; its last words. Or a setting out of range.
    """
    check_scaling(config)
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    found: Found = {"settings": asdict(config)}
    with few_cores() as cores:
        found["machine"] = _machine(cores)
        found |= _measured(config, folder)
        found["validation"] = _validation(config, found, cores)
    found["predicted"] = predictions(config, found["sums"])
    print(f"\n{report(found)}")
    if config.json is not None:
        write_text(config.json, json.dumps(found, indent=1) + "\n")


def check_scaling(config: ScalingRun) -> None:
    """Check what can be checked before anything runs.

    Raises:
        ValueError: names the key, the value found, what is allowed.
    """
    for key, low in {"crop": 32, "batch": 1, "steps": 1, "size": 32}.items():
        at_least(key, getattr(config, key), low)
    if 1 not in config.ranks or max(config.ranks) < 2 or min(config.ranks) < 1:
        raise ValueError(
            f"ranks={config.ranks}: give 1, which the others are predicted from, and more, as in [1,2,4]"
        )
    node = max(machine.fabric.per_node for machine in MACHINES.values())
    odd = [n for n in config.gpus if n < 2 or (n > node and n % node)]
    if odd or not config.gpus:
        raise ValueError(f"gpus={config.gpus}: give 2 to {node}, or whole nodes of {node}, as in [8,16,32]")
    for name, rate in config.achieved.items():
        choice("achieved", name, tuple(MACHINES))
        positive(f"achieved.{name}", rate)


def _measured(config: ScalingRun, folder: Path) -> Found:
    """Return the parts of a step on each number of ranks, the bare link and the overlap."""
    data = make_data(config, folder)
    start = make_start(config.model, data, folder)
    classes = read_index(data).num_classes
    with torch.device("meta"):
        facts = network_facts(network(config.model, classes))
    found: Found = {"network": asdict(facts), "local": {}, "service": {}}
    for kind in ("local", "service"):
        for ranks in config.ranks:
            parts = measure(config, ranks, data, start, serves=kind == "service")
            published = 4.0 * (facts.weights + facts.statistics) if kind == "service" else 0.0
            found[kind][str(ranks)] = {**parts, "published_bytes": published}
            print(
                f"  {ranks} ranks, {kind} teacher: {1e3 * sum(parts['seconds'].values()):8.1f} ms a step",
                flush=True,
            )
    found["link"] = measure_link(LINK_RANKS)
    found["sums"] = found["local"][str(max(config.ranks))]["calls"].get("sums", 0.0)
    overlap = profile_overlap(config, data, make_start(config.predict, data, folder))
    found["overlap"] = {**asdict(overlap), "share": overlap.share, "network": config.predict}
    return found


def _validation(config: ScalingRun, found: Found, cores: int) -> list[Found]:
    """Return, for each number of ranks but one, the predicted beside the measured step."""
    facts = Network(**found["network"])
    alone = found["local"]["1"]["seconds"]
    rows = []
    for ranks in config.ranks:
        if ranks == 1:
            continue
        measured: Parts = found["local"][str(ranks)]
        moved = tile_bytes(config.batch + 1, config.crop)
        split = gloo_split(alone, found["link"], facts, ranks, cores, found["sums"], moved)
        seconds = sum(measured["seconds"].values())
        rows.append(
            {
                "ranks": ranks,
                "predicted_s": split.total,
                "measured_s": seconds,
                "ratio": split.total / seconds,
                "split": asdict(split),
            }
        )
    return rows


def predictions(config: ScalingRun, sums: float) -> Found:
    """Return the rows of all kinds of work and numbers of GPUs for each of `MACHINES`, and the FLOP/s it stands on.

    Args:
        config: network, size, numbers of GPUs, measured FLOP/s.
        sums: short all-reduces of a step.
    """
    with torch.device("meta"):
        model = network(config.predict, CLASSES)
    found: Found = {}
    for name, machine in MACHINES.items():
        achieved = config.achieved.get(name)
        one = gpu(machine, model, config.size, sums, None if achieved is None else 1e12 * achieved)
        found[name] = {
            "forward_s": one.full_s,
            "tflops": one.flop / one.full_s / 1e12,
            "tflops_are": "assumed" if achieved is None else "measured, given by achieved=",
            "batchnorm_synchronised": machine.synchronises,
            "rows": [one.row(work, gpus) for work in WORKS for gpus in config.gpus],
        }
    return found


def _machine(cores: int) -> Found:
    return {
        "cores": cores,
        "cores_of_the_machine": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
