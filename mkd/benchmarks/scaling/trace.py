"""How much of the gradients' all-reduce lies inside the backward pass, read from a torch.profiler trace of gloo."""

import gzip
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mkd.benchmarks.scaling.meter import BACKWARD

# Numbers in the smallest bucket of gradients; BatchNorm's sums in the same pass are shorter.
SHORTEST = 2**16
NODE = "autograd::engine::evaluate_function"

Span = tuple[float, float]


@dataclass(frozen=True)
class Overlap:
    """Of the traced steps, seconds.

    Attributes:
        reduce_s: time in which any bucket is being all-reduced.
        inside_s: of this, while the backward pass still computes gradients.
        backward_s: from its begin to the last gradient computed.
        buckets: all-reduces.
    """

    reduce_s: float
    inside_s: float
    backward_s: float
    buckets: int

    @property
    def share(self) -> float:
        """Of the all-reduce's time inside the backward pass, in [0,1]."""
        return self.inside_s / self.reduce_s


def read_overlap(path: Path) -> Overlap:
    """Return the overlap in a chrome trace that `mkd.benchmarks.scaling.rank` wrote.

    Raises:
        ValueError: no backward pass or no all-reduce of gradients in it.
    """
    with gzip.open(path, "rt") as text:
        events = [e for e in json.load(text)["traceEvents"] if e.get("ph") == "X"]
    passes = [_until_last_node(e, events) for e in events if e["name"] == BACKWARD]
    reduces = [_span(e) for e in events if e["name"] == "gloo:all_reduce" and _numbers(e) >= SHORTEST]
    if not passes or not reduces:
        raise ValueError(
            f"{path}: {len(passes)} backward passes and {len(reduces)} all-reduces of gradients; trace a run of "
            "at least two gloo ranks"
        )
    union = merged(reduces)
    inside = math.fsum(common(reduce, each) for reduce in union for each in passes)
    whole, backward = (math.fsum(b - a for a, b in spans) for spans in (union, passes))
    return Overlap(1e-6 * whole, 1e-6 * inside, 1e-6 * backward, len(reduces))


def merged(spans: list[Span]) -> list[Span]:
    """Return the union of intervals as intervals that do not touch, in order."""
    union: list[Span] = []
    for begin, end in sorted(spans):
        if union and begin <= union[-1][1]:
            union[-1] = union[-1][0], max(union[-1][1], end)
        else:
            union.append((begin, end))
    return union


def common(a: Span, b: Span) -> float:
    """Return the length of what two intervals share."""
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0]))


def _until_last_node(backward: dict[str, Any], events: list[dict[str, Any]]) -> Span:
    """Return a backward pass until its last gradient: what follows is waiting for the all-reduce."""
    begin, end = _span(backward)
    nodes = [_span(e)[1] for e in events if e["name"].startswith(NODE) and e["tid"] == backward["tid"]]
    return begin, max((n for n in nodes if begin <= n <= end), default=begin)


def _span(event: dict[str, Any]) -> Span:
    return event["ts"], event["ts"] + event["dur"]


def _numbers(event: dict[str, Any]) -> int:
    """Return how many numbers an all-reduce moves."""
    return sum(math.prod(shape) for shape in event["args"].get("Input Dims", []))
