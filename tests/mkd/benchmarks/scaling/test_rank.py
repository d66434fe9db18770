"""What a rank records: the seconds of each step, and the bytes that it sends."""

import pytest
import torch
from torch import nn

from mkd.benchmarks.scaling.rank import StepRecorder
from mkd.distributed.engine import Engine
from tests.helpers.processes.ranks import run_ranks


def test_steps_are_apart():
    now = iter([10.0, 11.0, 13.0])
    recorder = StepRecorder(lambda: next(now))
    recorder.end_step()
    recorder.end_step()
    assert [step["seconds"] for step in recorder.steps] == [1.0, 2.0]


def recorded_rank(world):
    """Train a network for three steps under a recorder, as a rank; return its last step and a sum over the ranks."""
    recorder = StepRecorder()
    recorder.watch_collectives()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4))
    engine = Engine(world, net, torch.optim.SGD(net.parameters(), 0.01), rank_batch=2)
    for _ in range(3):
        engine.backward(engine.net(torch.ones(2, 3, 8, 8) * (world.rank + 1)).square().mean())
        engine.update()
        total = world.all_reduce_sum(torch.tensor([1.0 + world.rank]))
        world.exchange([torch.zeros(2 + r, 5) for r in range(world.ranks)], [2 + world.rank] * world.ranks)
        recorder.end_step()
    flat = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
    return {"step": recorder.steps[-1], "total": total, "weights": flat, "numbers": flat.numel()}


@pytest.mark.slow
def test_bytes_on_real_ranks_are_those_of_the_formulas(tmp_path):
    """Gradients 2 (R-1)/R of 4 bytes a weight; two norms of 8 + 4 channels; one sum; rows for the others."""
    ranks = 3
    found = run_ranks(f"{__name__}:recorded_rank", ranks, tmp_path)
    for rank, each in enumerate(found):
        sent, many = each["step"]["sent"], 2 * (ranks - 1) / ranks
        assert each["total"] == sum(range(1, ranks + 1))
        assert torch.equal(each["weights"], found[0]["weights"])
        assert sent["gradients"] == pytest.approx(many * 4 * each["numbers"])
        gathered = 8 * (2 * (8 + 4) + 2) * (ranks - 1)  # mean, variance, count in float64
        assert sent["batchnorm"] == pytest.approx(gathered + many * 4 * 2 * (8 + 4))
        rows = 20 * sum(2 + r for r in range(ranks) if r != rank)
        assert sent["losses"] == pytest.approx(many * 4 + rows)
        assert set(sent) == {"gradients", "batchnorm", "losses"}
        assert each["step"]["seconds"] > 0
