"""Volumes and bounds against counts by hand."""

from dataclasses import asdict, fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mkd.benchmarks.scaling.roofline import (
    MACHINES,
    SOURCES,
    Machine,
    bounds,
    convolution_bytes,
    ring_bytes,
    sent_bytes,
    volumes,
)
from mkd.benchmarks.settings import GPU_SERVERS, ScalingRun

NET = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1, stride=2)).eval()


def ring_played_through(size, ranks):
    """Count what rank 0 sends when a ring reduces `ranks` chunks and then passes the sums on."""
    chunk, sent = size / ranks, 0.0
    for _ in ("reduce", "pass on"):
        for _ in range(ranks - 1):
            sent += chunk
    return sent


@given(st.floats(0, 1e10), st.integers(1, 600))
def test_an_all_reduce_sends_what_a_ring_sends(size, ranks):
    assert ring_bytes(size, ranks) == pytest.approx(ring_played_through(size, ranks), rel=1e-9)


def test_volumes_by_hand():
    """Weights 216 + 16 + 36; running mean, variance and count 17; mean, variance and count of a batch 17."""
    assert volumes(NET) == {
        "parameters": 268,
        "gradients": 4 * 268,
        "published": 4 * (268 + 17),
        "batchnorm layers": 1,
        "batchnorm forward": 4 * 17,
        "batchnorm backward": 4 * 16,
    }


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_a_rank_sends_statistics_only_below_16_tiles(ranks):
    """Gradients by a ring, one tile of 4 bytes a pixel; statistics to each other rank, their sums by a ring."""
    sizes = {"gradients": 1000, "batchnorm forward": 70, "batchnorm backward": 30}
    alone = ring_played_through(1000, ranks) + (4 * 10 * 10 if ranks > 1 else 0)
    assert sent_bytes(sizes, ranks, 16, 10) == pytest.approx(alone)
    norms = 70 * (ranks - 1) + ring_played_through(30, ranks)
    assert sent_bytes(sizes, ranks, 15, 10) == pytest.approx(alone + norms)


def test_convolutions_read_and_write_bf16():
    """Images of 3 x 10 x 10 to 8 x 8 x 8, then to 4 x 4 x 4; counting leaves no hook."""
    assert convolution_bytes(NET, 10) == 2 * (300 + 512 + 512 + 64)
    assert not any(m._forward_hooks for m in NET.modules())


def test_bounds_by_hand():
    """3.5 passes over the tiles: 2 FLOP a multiply-accumulate over the peak, bytes over the slowest bandwidth."""
    config = ScalingRun(size=10, gpus=[8, 16], achieved={"h100": 100.0})
    rows = {(row["machine"], row["GPUs"]): row for row in bounds(config, NET)}
    assert set(rows) == {(name, gpus) for name in MACHINES for gpus in (8, 16)}
    flop, moved, sizes = 2 * (512 * 27 + 64 * 8), convolution_bytes(NET, 10), volumes(NET)
    for (name, gpus), row in rows.items():
        m = MACHINES[name]
        peak = 100.0 if name == "h100" else m.peak_tflops
        link = m.inside_gb_s if gpus == 8 else min(m.inside_gb_s, m.outside_gb_s)
        parts = {
            "arithmetic": 3.5 * m.tiles * flop / (peak * 1e12),
            "memory": 3.5 * m.tiles * moved / (m.memory_tb_s * 1e12),
            "communication": sent_bytes(sizes, gpus, m.tiles, 10) / (link * 1e9),
        }
        assert {part: row[part] for part in parts} == pytest.approx({p: 1e3 * s for p, s in parts.items()})
        assert parts[row["binds"]] == max(parts.values())
        assert row["tiles/s, at most"] == pytest.approx(gpus * m.tiles / max(parts.values()))


def test_counting_needs_no_memory():
    """A network on the meta device has the same volumes and bounds."""
    with torch.device("meta"):
        same = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1, stride=2))
    assert volumes(same) == volumes(NET)
    assert bounds(ScalingRun(size=10), same) == bounds(ScalingRun(size=10), NET)


def test_every_assumed_figure_has_a_source():
    assert set(SOURCES) == {field.name for field in fields(Machine)}
    assert tuple(MACHINES) == GPU_SERVERS
    assert all(value for machine in MACHINES.values() for value in asdict(machine).values())
