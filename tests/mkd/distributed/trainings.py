"""Trainings of a tiny network that tests run on ranks, and on one process as the reference."""

import contextlib
from pathlib import Path

import torch
from torch import nn

from mkd.distributed.engine import Engine
from mkd.train.optim import make_optimizer, set_poly_lr
from tests.helpers.training.runs import CPU

TILES = 12  # global batch: divides by 1, 2, 3 ranks and by 2 micro-batches
HERE = "tests.mkd.distributed.trainings"


class Net(nn.Module):
    """Two convolutions with BatchNorm, a pooled branch of one value an image, and a part that may be frozen.

    No bias before BatchNorm: its gradient is zero but for rounding, which Adam would make steps of.
    """

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(5, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6, momentum=None), nn.ReLU()
        )
        self.pooled = nn.Sequential(nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        y = self.body(self.stem(x))
        return self.head(y + self.pooled(y.mean((2, 3), keepdim=True)))


def batch(step):
    """Return the global batch of a step."""
    g = torch.Generator().manual_seed(100 + step)
    return torch.rand(TILES, 3, 6, 6, generator=g), torch.randint(0, 4, (TILES, 6, 6), generator=g)


def several(world, *trainings):
    """Do trainings given as `option=value,option=value` one after the other in one process."""
    return [train(world, **dict(pair.split("=") for pair in t.split(","))) for t in trainings]


def train(
    world,
    kind="auto",
    name="sgd",
    micro="",
    clip="",
    frozen="",
    first="0",
    steps="20",
    state="",
    diagnose="",
    rank_batch="4",
):
    """Train from step `first` on and return losses, the last gradients, the final state, and the notes.

    With `state` a checkpoint of that path is taken up before, if it is there, and one is written at the end.
    """
    model = Net()
    if world.rank:  # what the ranks start from is rank 0's
        torch.manual_seed(world.rank)
        model.head.reset_parameters()
    if frozen:
        model.stem.requires_grad_(False)
    optimizer = make_optimizer(
        name, model, {"head.weight", "head.bias"}, lr=0.05, head_factor=5.0, momentum=0.9, weight_decay=1e-2
    )
    limit = float(clip) if clip else None
    engine = Engine(world, model, optimizer, kind=kind, clip=limit, rank_batch=int(rank_batch))
    if state and Path(state).exists():
        engine.load_state_dict(torch.load(state, weights_only=True))
    losses, gradients, size = [], [], int(micro) if micro else TILES // world.ranks
    for step in range(int(first), int(first) + int(steps)):
        model.train()
        model.stem.train(not frozen)
        set_poly_lr(engine.optimizer, 0.05, step, 60, 0.9)
        images, labels = batch(step)
        losses.append(gradient_step(world, engine, images, labels, size, bool(diagnose)))
        gradients = [
            p.grad.clone() for p in model.parameters() if p.grad is not None
        ]  # DeepSpeed keeps its own
        engine.update()
    saved = engine.state_dict()
    if state and world.is_main:
        torch.save(saved, state)
    world.barrier()
    world.check_equal(saved["model"].values(), "weights")
    return {"losses": losses, "gradients": gradients, **saved, "notes": engine.notes}


def gradient_step(world, engine, images, labels, size, diagnose):
    """Make one gradient from this rank's micro-batches, each of which is a run of slots over all ranks."""
    together = size * world.ranks
    count = len(images) // together
    whole = torch.zeros(())
    for n in range(count):
        mine = slice(n * together + world.rank * size, n * together + (world.rank + 1) * size)
        with engine.accumulating(n == count - 1), engine.autocast():
            z = engine.net(images[mine])
            loss = (
                nn.functional.cross_entropy(z, labels[mine], reduction="sum")
                / labels[mine].numel()
                / world.ranks
            )
            if diagnose:
                params = [p for p in engine.model.parameters() if p.requires_grad]
                torch.autograd.grad(loss, params, retain_graph=True)
            engine.backward(loss / count)
        whole = whole + world.all_reduce_sum(loss.detach()) / count
    return float(whole)


def alone(**options):
    """Train in this process, with one rank."""
    with torch_threads():
        return train(CPU, **options)


@contextlib.contextmanager
def torch_threads():
    """Compute on one thread, as ranks do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def difference(a, b):
    """Return the largest difference of two results in losses, gradients, weights, statistics and momentum."""
    found = [max(abs(x - y) for x, y in zip(a["losses"], b["losses"], strict=True))]
    assert a["model"].keys() == b["model"].keys()
    found += [(a["model"][k].double() - b["model"][k].double()).abs().max().item() for k in a["model"]]
    if a["gradients"] and b["gradients"]:
        found += [(g - h).abs().max().item() for g, h in zip(a["gradients"], b["gradients"], strict=True)]
    mine, other = a["optimizer"]["state"], b["optimizer"]["state"]
    assert mine.keys() == other.keys()
    for n in mine:
        assert mine[n].keys() == other[n].keys()
        found += [(mine[n][k] - other[n][k]).abs().max().item() for k in mine[n] if mine[n][k] is not None]
    return max(found)


def same_bits(a, b):
    """Say whether two results are equal in every bit."""
    return a["losses"] == b["losses"] and difference(a, b) == 0
