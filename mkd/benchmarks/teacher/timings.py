"""What the benchmark of teachers times: a bare forward pass, a stream of answers, a student's waits."""

import statistics
import time
from functools import partial
from itertools import count

import torch
from torch import Tensor, nn

from mkd.distributed.engine import autocast
from mkd.teacher.api import Teacher
from mkd.teacher.local import logits_of

WARM_UP = 2  # batches before the clock
MIN_BATCHES = 3  # batches that are counted
ROUND_TRIPS = 20  # single round trips, of which the median counts
MAX_STEPS = 200  # of a student whose waits are measured


def random_tiles(batch: int, size: int) -> Tensor:
    """Return noise, uint8 (B,3,S,S)."""
    return torch.randint(
        256, (batch, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@torch.no_grad()
def forward_rate(network: nn.Module, images: Tensor, device: torch.device, seconds: float) -> float:
    """Return tiles/s of forward passes, uint8 (B,3,H,W) on the device to logits, in the layout that the service has."""
    network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, precision = images.to(device), partial(autocast, device)
    done, began = 0, 0.0
    while done < WARM_UP + MIN_BATCHES or time.perf_counter() - began < seconds:
        if done == WARM_UP:
            began = time.perf_counter()
        logits_of(network, images, precision)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        done += 1
    return (done - WARM_UP) * len(images) / (time.perf_counter() - began)


def answer_intervals(teacher: Teacher, images: Tensor, seconds: float) -> list[float]:
    """Return the seconds between answers of a teacher whose queue always holds ``teacher.depth`` more batches.

    Args:
        teacher: with nothing submitted, before and after.
        images: uint8 (B,3,H,W), sent again and again.
        seconds: how long to go on after the first `WARM_UP` answers; at least `MIN_BATCHES` intervals.
    """
    for ticket in range(teacher.depth + 1):
        teacher.submit(ticket, images, 0.0)
    times: list[float] = []
    for ticket in count():
        teacher.collect(ticket)
        times.append(time.perf_counter())
        if len(times) >= WARM_UP + MIN_BATCHES and times[-1] - times[WARM_UP - 1] >= seconds:
            break
        teacher.submit(ticket + teacher.depth + 1, images, 0.0)
    for late in range(ticket + 1, ticket + teacher.depth + 1):
        teacher.collect(late)
    return [b - a for a, b in zip(times[WARM_UP - 1 :], times[WARM_UP:], strict=False)]


def round_trip(teacher: Teacher, images: Tensor) -> float:
    """Return the median seconds of one batch there and back, with nothing else submitted."""
    times = []
    for ticket in range(ROUND_TRIPS):
        began = time.perf_counter()
        teacher.submit(ticket, images, 0.0)
        teacher.collect(ticket)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def step_waits(
    teacher: Teacher, student: nn.Module, images: Tensor, step_s: float, seconds: float
) -> list[float]:
    """Return the seconds that each step of a student waits for its labels, after a warm-up.

    The student submits ``teacher.depth`` batches ahead and publishes its weights after each step, as in training;
    instead of training it sleeps, like the processor of a machine whose GPU trains.

    Args:
        teacher: with nothing submitted.
        student: its weights are averaged and published.
        images: uint8 (B,3,H,W).
        step_s: length of a step without the wait.
        seconds: how long to go on.
    """
    for ticket in range(teacher.depth):
        teacher.submit(ticket, images, 0.0)
    waits = []
    steps = min(MAX_STEPS, max(MIN_BATCHES, round(seconds / step_s)))
    for ticket in range(WARM_UP + steps):
        began = time.perf_counter()
        teacher.collect(ticket)
        ready = time.perf_counter()
        waits.append(ready - began)
        teacher.submit(ticket + teacher.depth, images, 0.0)
        teacher.follow(student)
        time.sleep(max(0.0, ready + step_s - time.perf_counter()))
    return waits[WARM_UP:]
