"""The meter of a rank: whose time it is, what is sent, and the overlap that a trace shows."""

import gzip
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mkd.benchmarks.scaling.meter import BACKWARD, StepMeter
from mkd.benchmarks.scaling.trace import NODE, common, merged, read_overlap
from mkd.distributed.engine import Engine
from tests.helpers.processes.ranks import run_ranks


class Clock:
    """Seconds that go on by hand."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds


def test_time_inside_a_span_belongs_to_the_inner_one():
    clock = Clock()
    meter = StepMeter(clock)
    clock.wait(1)
    with meter.span("teacher"):
        clock.wait(2)
        with meter.span("exchange"):
            clock.wait(4)
        clock.wait(8)
    meter.end_step()
    assert meter.steps[0]["seconds"] == {"compute": 1, "teacher": 10, "exchange": 4}


def test_a_span_that_fails_ends():
    clock = Clock()
    meter = StepMeter(clock)

    def fails():
        clock.wait(1)
        raise KeyError

    with pytest.raises(KeyError):
        meter.timed(fails, "data")()
    clock.wait(2)
    meter.end_step()
    assert meter.steps[0]["seconds"] == {"compute": 2, "data": 1}


def test_a_stream_is_timed_item_by_item_and_closed():
    clock, closed = Clock(), []

    def source():
        try:
            while True:
                clock.wait(1)
                yield 1
        finally:
            closed.append(True)

    meter = StepMeter(clock)
    stream = meter.timed_stream(source, "data")()
    for _ in range(3):
        next(stream)
        clock.wait(5)
    stream.close()
    meter.end_step()
    assert meter.steps[0]["seconds"] == {"data": 3, "compute": 15}
    assert closed


def test_steps_are_apart():
    clock = Clock()
    meter = StepMeter(clock)
    for seconds in (1, 2):
        clock.wait(seconds)
        meter.end_step()
    assert [s["seconds"] for s in meter.steps] == [{"compute": 1}, {"compute": 2}]


def measured_rank(world):
    """Train a network for three steps under a meter, as a rank; return its last step and a sum over the ranks."""
    meter = StepMeter()
    meter.watch_collectives()
    Engine.backward = meter.backward(Engine.backward)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4))
    engine = Engine(world, net, torch.optim.SGD(net.parameters(), 0.01), rank_batch=2)
    for _ in range(3):
        engine.backward(engine.net(torch.ones(2, 3, 8, 8) * (world.rank + 1)).square().mean())
        engine.update()
        total = world.all_reduce_sum(torch.tensor([1.0 + world.rank]))
        world.exchange([torch.zeros(2 + r, 5) for r in range(world.ranks)], [2 + world.rank] * world.ranks)
        meter.end_step()
    flat = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
    return {"step": meter.steps[-1], "total": total, "weights": flat, "numbers": flat.numel()}


@pytest.mark.parametrize("ranks", [2, 3])
def test_volumes_on_real_ranks_are_those_of_the_formulas(ranks, tmp_path):
    """Gradients 2 (R-1)/R of 4 bytes a weight; two norms of 8 + 4 channels; one sum; rows for the others."""
    found = run_ranks(f"{__name__}:measured_rank", ranks, tmp_path)
    for rank, each in enumerate(found):
        step, many = each["step"], 2 * (ranks - 1) / ranks
        assert each["total"] == sum(range(1, ranks + 1))
        assert torch.equal(each["weights"], found[0]["weights"])
        assert step["sent"]["gradients"] == pytest.approx(many * 4 * each["numbers"])
        gathered = 8 * (2 * (8 + 4) + 2) * (ranks - 1)  # mean, variance, count in float64
        assert step["sent"]["batchnorm"] == pytest.approx(gathered + many * 4 * 2 * (8 + 4))
        rows = 20 * sum(2 + r for r in range(ranks) if r != rank)
        assert step["sent"]["sums"] == pytest.approx(many * 4 + rows)
        assert step["calls"] == {"gradients": 1, "batchnorm": 4, "sums": 2}
        assert step["seconds"]["all_reduce"] > 0
        assert min(step["seconds"].values()) >= 0


def event(name, begin, end, thread=1, numbers=None):
    made = {"ph": "X", "name": name, "ts": begin, "dur": end - begin, "tid": thread, "args": {}}
    if numbers is not None:
        made["args"] = {"Input Dims": [[numbers]]}
    return made


def write_trace(folder, events):
    with gzip.open(folder / "trace.json.gz", "wt") as text:
        json.dump({"traceEvents": events}, text)


def test_the_overlap_of_a_trace(tmp_path):
    """Backward computes 100..200; buckets at 120..150, 140..180 and 190..230; a short sum of BatchNorm is none."""
    trace = [
        event(BACKWARD, 100, 240),
        event(f"{NODE}: ConvolutionBackward0", 110, 160),
        event(f"{NODE}: ConvolutionBackward0", 160, 200),
        event(f"{NODE}: ConvolutionBackward0", 0, 230, thread=7),
        event("gloo:all_reduce", 120, 150, 2, 10**6),
        event("gloo:all_reduce", 140, 180, 3, 10**6),
        event("gloo:all_reduce", 190, 230, 2, 10**6),
        event("gloo:all_reduce", 300, 400, 2, 100),
        {"ph": "M", "name": "thread_name"},
    ]
    write_trace(tmp_path, trace)
    found = read_overlap(tmp_path / "trace.json.gz")
    assert found.buckets == 3
    assert found.reduce_s == pytest.approx(100e-6)
    assert found.inside_s == pytest.approx(70e-6)
    assert found.backward_s == pytest.approx(100e-6)
    assert found.share == pytest.approx(0.7)


def test_a_trace_without_gradients_is_refused(tmp_path):
    write_trace(tmp_path, [event(BACKWARD, 0, 1)])
    with pytest.raises(ValueError, match="1 backward passes and 0 all-reduces"):
        read_overlap(tmp_path / "trace.json.gz")


spans = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda p: (min(p), max(p))), max_size=8
)


@given(spans, st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda p: (min(p), max(p))))
def test_unions_and_intersections_are_those_of_sets_of_seconds(some, window):
    seconds = np.zeros(61, bool)
    for begin, end in some:
        seconds[begin:end] = True
    union = merged(some)
    assert sum(b - a for a, b in union) == seconds.sum()
    assert sum(common(each, window) for each in union) == seconds[window[0] : window[1]].sum()
    assert all(before[1] < after[0] for before, after in zip(union, union[1:], strict=False))
