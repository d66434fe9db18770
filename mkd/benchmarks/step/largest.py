"""launch/throughput.py step --fit: the largest batch and the largest crop whose steps a GPU's memory holds."""

import gc
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from mkd.benchmarks.reporting import write_json
from mkd.benchmarks.settings import StepSpeedRun
from mkd.benchmarks.step.product import conduct, drawn_tiles, stage_config
from mkd.distributed.world import find_world

CARDS = (24, 12)  # GB of other cards than this one
CONTEXT = 0.75  # GiB of a card that the driver and torch's kernels take beside torch's tensors
STEPS = 2  # the first allocates, the second finds the optimizer's state in place
CROP_UNIT, MOST_CROP, MOST_BATCH = 32, 4096, 1024


def measure_fit(config: StepSpeedRun) -> None:
    """Find, for this card and for smaller ones, what fits the most demanding configured stage; print config lines.

    Raises:
        ValueError: no GPU.
    """
    device = find_world(config.device).device
    if device.type != "cuda":
        raise ValueError(
            f"fit=true: it looks for what fits a GPU's memory, but this run computes on {device}; leave it out"
        )
    # One data set for all: tiles are mirrored beyond their edge where a crop is larger.
    config = replace(config, data=config.data or drawn_tiles(config))
    total = torch.cuda.get_device_properties(device).total_memory / 2**30
    found = {}
    for card in (None, *(gb for gb in CARDS if gb < total)):
        torch.cuda.set_per_process_memory_fraction(1.0 if card is None else (card - CONTEXT) / total, device)
        name = f"{torch.cuda.get_device_name(device)}, {total:.0f} GB" if card is None else f"{card} GB"
        found[name] = fitting(config, lambda given: all(_fits(given, stage) for stage in config.stages))
        print(f"{name}: " + "; or ".join(config_line(pair) for pair in found[name]), flush=True)
    write_json(config.json, {"settings": asdict(config), "fits": found})


def fitting(config: StepSpeedRun, fits: Callable[[StepSpeedRun], bool]) -> list[tuple[int, int] | None]:
    """Return (batch, crop) with the largest batch at the given crop, and with the largest crop at the given batch.

    Args:
        config: the benchmark's.
        fits: whether steps with a config's batch and crop fit; what is smaller fits too.

    Returns:
        Two pairs; None where not even the smallest fits.
    """
    batch = largest(lambda n: fits(replace(config, batch=n)), 2, 1, MOST_BATCH)
    crop = largest(lambda n: fits(replace(config, crop=n)), 2 * CROP_UNIT, CROP_UNIT, MOST_CROP)
    return [None if batch is None else (batch, config.crop), None if crop is None else (config.batch, crop)]


def largest(fits: Callable[[int], bool], least: int, unit: int, most: int) -> int | None:
    """Return the largest number that fits, by doubling and then halving the distance; None where the least does not.

    Args:
        fits: true up to some number, false beyond it.
        least: the first number tried.
        unit: numbers are least + a multiple of it.
        most: nothing beyond it is tried.
    """
    if not fits(least):
        return None
    low, high = 0, 1  # in units above the least: `low` fits
    top = (most - least) // unit
    while high <= top and fits(least + high * unit):
        low, high = high, 2 * high
    high = min(high, top + 1)  # does not fit, or is not allowed
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(least + middle * unit) else (low, middle)
    return least + low * unit


def config_line(pair: tuple[int, int] | None) -> str:
    """Return the keys to give to a training run."""
    return "not even the smallest fits" if pair is None else f"data.batch={pair[0]} data.crop={pair[1]}"


def _fits(config: StepSpeedRun, stage: str) -> bool:
    """Whether a few steps of a stage end without a lack of GPU memory."""
    Path(config.out).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=config.out) as scratch:
        run = stage_config(config, stage, f"{scratch}/run")
        try:
            conduct(stage, run, lambda _: iter([None] * STEPS))
            held = True
        except torch.OutOfMemoryError:
            held = False
    # What a failed step leaves would be missing in the next one.
    gc.collect()
    torch.cuda.empty_cache()
    return held
