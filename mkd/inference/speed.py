"""How fast a network answers on this machine."""

import time
from collections.abc import Callable
from typing import Any

import torch

from mkd.distributed.engine import autocast, has_bf16
from mkd.models.segmentation import SegmentationNetwork


def seconds_a_call(work: Callable[[], None], device: torch.device, at_least: float) -> float:
    """Return seconds a call, over at least this many seconds and two calls, after one warm-up call.

    Args:
        work: what is timed.
        device: where it works; it is waited for.
        at_least: seconds of measurement.
    """
    work()
    _wait(device)
    began, calls = time.perf_counter(), 0
    while calls < 2 or time.perf_counter() - began < at_least:
        work()
        _wait(device)
        calls += 1
    return (time.perf_counter() - began) / calls


def inference_speed(
    model: SegmentationNetwork, size: int, batch: int, device: torch.device, at_least: float = 2.0
) -> dict[str, Any]:
    """Measure forward passes over noise in evaluation mode, as `launch/predict_map.py` computes them.

    Args:
        model: moved to the device.
        size: height and width of an image, pixels.
        batch: images in a forward pass.
        device: where it is measured.
        at_least: seconds of measurement.

    Returns:
        "images_per_second", and what it is of: "device", "threads" of a CPU, "precision", "batch", "size", "warm_up"
        (forward passes before the measurement).
    """
    model.to(device).eval()
    images = torch.rand(batch, model.architecture.scale.bands, size, size, device=device)

    @torch.inference_mode()
    def once() -> None:
        with autocast(device):
            model(images)

    seconds = seconds_a_call(once, device, at_least)
    return {
        "images_per_second": batch / seconds,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "precision": "bf16" if has_bf16(device) else "float32",
        "batch": batch,
        "size": size,
        "warm_up": 1,
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
