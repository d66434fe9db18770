"""launch/throughput.py predict: our maps beside the bare forward pass of their windows and a plain sliding window."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from mkd.benchmarks.contenders import median_ratio, medians, requirement_lines, run_interleaved
from mkd.benchmarks.data.runner import run_captured
from mkd.benchmarks.network import write_random_model
from mkd.benchmarks.peak import peak_mib
from mkd.benchmarks.predict import smp_forward
from mkd.benchmarks.predict.plain_map import plain_map
from mkd.benchmarks.reporting import machine_facts, write_json
from mkd.benchmarks.settings import PredictSpeedRun
from mkd.config.keys import CONFIGS
from mkd.config.load import load
from mkd.config.schema import PredictRun
from mkd.distributed.engine import autocast
from mkd.distributed.world import find_world
from mkd.geo.grid import Window, covering_windows
from mkd.geo.raster import RasterReader
from mkd.inference.band_predictor import PredictionGrid, WindowNetwork
from mkd.metrics.confusion import ConfusionMatrix
from mkd.model_folder import load_model, read_card
from mkd.recipes.mapping import predict_map as recipe
from mkd.recipes.mapping.map_rows import predict_rows
from mkd.synth.landscape import render, write_orthomosaic
from shards.inputs.class_file import read_classfile

LOWER_BOUNDS = {"predict_vs_forward": 0.9, "predict_vs_plain": 2.0}
UPPER_BOUNDS = {"miou_difference": 0.1}  # percentage points, either way; of trained weights
SEED = 1000  # of the scene: none that the demo trains on
SMP_SECONDS = 10.0
UNIT = "1000 pixels/s"

Found = dict[str, Any]


def measure_predict(config: PredictSpeedRun) -> None:
    """Make maps in interleaved rounds, compare them with the labels, print a table and write all figures.

    Raises:
        ValueError: weights of other classes than the scene's, or a contender that failed.
    """
    device, files = find_world(config.device).device, scene_files(config)
    if config.batch is None:
        config = replace(config, batch=recipe.usual_batch(config.tile, device))
    found: Found = {"settings": asdict(config), "machine": machine_facts(device)}
    if "rate" in config.parts:
        found |= _rates(config, files, device)
        found |= compared_maps(files)
    if "memory" in config.parts:
        given = {"settings": asdict(config), "files": files}
        found["peak_mib"] = {
            "ours": peak_mib(our_map_alone, given),
            "plain": peak_mib(plain_map_alone, given),
        }
    if config.peers is not None:
        found["smp"] = _smp(config, len(read_card(files["model"]).classes), device)
    print("\n" + table(config, found))
    write_json(config.json, found)


def _smp(config: PredictSpeedRun, classes: int, device: torch.device) -> Found:
    """Return the rate of segmentation_models_pytorch's forward passes, by the peers' interpreter."""
    given = {"classes": classes, "tile": config.tile, "batch": config.batch, "seconds": SMP_SECONDS}
    command = [str(config.peers), "-I", smp_forward.__file__, json.dumps({**given, "device": str(device)})]
    found: Found = json.loads(run_captured(command).splitlines()[-1])
    return found


def scene_files(config: PredictSpeedRun) -> dict[str, str]:
    """Return scene, its labels and the model folder, made where they miss, and where the maps go.

    Raises:
        ValueError: weights of other classes than the scene's.
    """
    folder, name = Path(config.out), f"scene-{config.scene}"
    image, labels = (folder / kind / f"{name}.tif" for kind in ("images", "labels"))
    if not (image.is_file() and labels.is_file()):
        write_orthomosaic(render("target", config.scene, config.scene, SEED), folder, name)
    about = read_classfile(CONFIGS / "datasets" / "demo_target.yaml")
    if config.weights is None:
        write_random_model(folder / f"model-{config.model}", config.model, about.classes, about.palette)
    elif (classes := read_card(config.weights).classes) != tuple(about.classes):
        raise ValueError(
            f"weights={config.weights} has the classes {', '.join(classes)}; the scene has {', '.join(about.classes)}: "
            "give a model that was trained on the demo's target domain"
        )
    return {
        "scene": str(image),
        "labels": str(labels),
        "model": config.weights or str(folder / f"model-{config.model}"),
        **{name: str(folder / f"map-{name}.tif") for name in ("ours", "plain")},
    }


def _rates(config: PredictSpeedRun, files: Mapping[str, str], device: torch.device) -> Found:
    """Return the contenders' rates, and how ours compare."""
    commands: list[float] = []
    bare, plain = _bare_forward(config, files, device), _plain(config, files, device)

    def ours() -> float:
        took, whole = our_map(config, files)
        commands.append(whole)
        return took

    contenders = {"ours": ours, "bare forward": bare, "plain": plain}
    area = config.scene**2 / 1000

    def rate(seconds: Callable[[], float]) -> float:
        return area / seconds()

    rates = run_interleaved({n: partial(rate, each) for n, each in contenders.items()}, config.rounds, UNIT)
    return {
        "predict_vs_forward": median_ratio(rates["ours"], rates["bare forward"]),
        "predict_vs_plain": median_ratio(rates["ours"], rates["plain"]),
        "kilopixels_per_s": medians(rates),
        "rounds": rates,
        "command_seconds": commands,
    }


def our_map(config: PredictSpeedRun, files: Mapping[str, str]) -> tuple[float, float]:
    """Make our map by its command's recipe; return the seconds of the map, and of all from the model folder on."""
    given = [f"{key}={getattr(config, key)}" for key in ("tile", "overlap", "batch")]
    given += [f"model={files['model']}", f"input={files['scene']}", f"output={files['ours']}"]
    run = load(PredictRun, "predict_map", [*given, f"device={config.device or 'null'}"])
    Path(files["ours"]).unlink(missing_ok=True)  # or it would be kept
    took: list[float] = []

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        summary = predict_rows(*args, **kwargs)
        took.append(time.perf_counter() - began)
        return summary

    began = time.perf_counter()
    with patch.object(recipe, "predict_rows", timed):
        recipe.predict(run)
    return took[0], time.perf_counter() - began


def _bare_forward(
    config: PredictSpeedRun, files: Mapping[str, str], device: torch.device
) -> Callable[[], float]:
    """Return a function that takes the seconds of the forward passes of a map's windows, which lie in memory.

    Model, layout and precision are those of the map; nothing is read, softened, blended or written.
    """
    (model, card), batch = load_model(files["model"]), config.batch
    assert batch is not None
    network = WindowNetwork(model, len(card.classes), card.architecture.scale, device, tta="none")
    grid = PredictionGrid(config.tile, config.overlap, batch)
    with RasterReader(files["scene"]) as reader:
        pixels = np.stack([reader.read(window) for window in grid.windows(reader.info)])

    @torch.inference_mode()
    def seconds() -> float:
        began = time.perf_counter()
        for first in range(0, len(pixels), batch):
            stored = torch.from_numpy(pixels[first : first + batch]).to(device).permute(0, 3, 1, 2)
            images = stored.float() / 255
            with autocast(device):
                network.model(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    return seconds


def _plain(config: PredictSpeedRun, files: Mapping[str, str], device: torch.device) -> Callable[[], float]:
    """Return a function that makes the plain map and takes its seconds."""
    model, card = load_model(files["model"])
    model = model.to(device).eval()
    sizes = {"classes": len(card.classes), "tile": config.tile, "overlap": config.overlap}

    def seconds() -> float:
        began = time.perf_counter()
        plain_map(model, files["scene"], files["plain"], **sizes, device=device)
        return time.perf_counter() - began

    return seconds


def compared_maps(files: Mapping[str, str]) -> Found:
    """Return mIoU of both maps and its difference, percent, and the share of pixels with the same class in both."""
    ours, plain, labels = (_first_band(files[name]) for name in ("ours", "plain", "labels"))
    found = {}
    for name, ids in (("ours", ours), ("plain", plain)):
        matrix = ConfusionMatrix(len(read_card(files["model"]).classes))
        matrix.update(torch.from_numpy(ids), torch.from_numpy(labels))
        found[name] = 100 * matrix.miou()
    return {
        "miou": found,
        "miou_difference": abs(found["ours"] - found["plain"]),
        "same_class": float((ours == plain).mean()),
    }


def _first_band(path: str) -> NDArray[np.uint8]:
    with RasterReader(path) as reader:
        return reader.read(Window(0, 0, reader.info.height, reader.info.width), [1])[..., 0]


def our_map_alone(settings: Found, files: dict[str, str]) -> None:
    """Make our map, for its peak memory."""
    our_map(PredictSpeedRun(**settings), files)


def plain_map_alone(settings: Found, files: dict[str, str]) -> None:
    """Make the plain map, for its peak memory."""
    config = PredictSpeedRun(**settings)
    _plain(config, files, find_world(config.device).device)()


def table(config: PredictSpeedRun, found: Found) -> str:
    """Return ratios beside what is asked for, rates, memory, and how far the two maps agree."""
    upper = UPPER_BOUNDS if config.weights is not None else {}
    lines = requirement_lines(found, LOWER_BOUNDS, upper)
    lines += [f"{name:<28} {rate:10.1f}   {UNIT}" for name, rate in found.get("kilopixels_per_s", {}).items()]
    for name, size in found.get("peak_mib", {}).items():
        lines.append(f"{name:<28} {size:10.0f}   MiB, peak memory")
    if "miou" in found:
        both = ", ".join(f"{name} {value:.2f}" for name, value in found["miou"].items())
        same = f"{100 * found['same_class']:.2f} % of the pixels have one class in both maps"
        lines.append(f"mIoU {both}, difference {found['miou_difference']:.2f} percentage points; {same}")
        if config.weights is None:
            lines.append(
                "random weights: mIoU means nothing; give weights=MODEL, such as the last one of the demo"
            )
    if "smp" in found:
        smp = found["smp"]
        versions = ", ".join(f"{name} {version}" for name, version in smp["versions"].items())
        windows = len(list(covering_windows(config.scene, config.scene, config.tile, config.overlap)))
        rate = smp["windows_per_s"] * config.scene**2 / windows / 1000
        about = f"its forward passes alone, {smp['encoder']}, float32; {versions}"
        lines.append(f"{'smp DeepLabV3Plus':<28} {rate:10.1f}   {UNIT}, {about}")
    return "\n".join(lines)
