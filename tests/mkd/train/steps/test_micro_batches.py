"""Micro-batches: L_KD and L_cons are means over the pixels of the whole batch, however many forward passes it takes."""

import copy

import pytest
import torch
from torch import nn

from mkd.distributed.engine import Engine
from mkd.models.dropout import FeatureDropout, SampleDropout
from mkd.train.batches import StepBatch
from mkd.train.loop import _train_step
from mkd.train.pseudo.exchange import PseudoBatch
from mkd.train.run.checkpoint import Checkpoints
from mkd.train.run.journal import Journal
from mkd.train.steps.kd import KdStep
from mkd.train.steps.semi import SemiStep
from mkd.train.steps.supervised import SupervisedLoss
from mkd.train.trainer import Trainer
from tests.helpers.processes.threads import on_threads
from tests.helpers.shards import CLASSES
from tests.helpers.training.loops import run, write_sets
from tests.helpers.training.nets import tiny_net
from tests.helpers.training.pseudo import Scripted, monitor_of
from tests.helpers.training.runs import CPU, phase_of
from tests.helpers.training.steps import consolidation

BATCH, SIDE = 4, 10
NOTHING = SupervisedLoss(0.0, 0.0)  # L_sup is 0: what is left is the mean in question


class OneMap(FeatureDropout):
    """Drops channels of one map, in a chain of layers."""

    def forward(self, x):
        return super().forward([x])[0]


def plain_net(seed):
    """Make a network whose pixels do not see other tiles."""
    torch.manual_seed(seed)
    first = nn.Conv2d(3, 4, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), SampleDropout(0.5), nn.Conv2d(4, 3, 1), OneMap())


STUDENT, TEACHER = (
    plain_net(0),
    plain_net(1).eval().requires_grad_(False),
)  # ranks are threads: one seed for all


def views_of(world):
    """Make a rank's part of a batch of which tiles have unlike numbers of labels, one of them none."""
    g = torch.Generator().manual_seed(7)
    labels = torch.randint(0, 3, (BATCH, SIDE, SIDE), generator=g, dtype=torch.uint8)
    for tile, rows in enumerate((2, 9, 0, 5)):
        labels[tile, rows:] = 255
    views = StepBatch(torch.rand(BATCH, 3, SIDE, SIDE, generator=g), labels)
    views.weak = torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), generator=g, dtype=torch.uint8)
    views.inside = torch.rand(BATCH, SIDE, SIDE, generator=g) < torch.tensor([0.1, 0.9, 0.5, 0.0]).view(
        4, 1, 1
    )
    return views.split(world.ranks)[world.rank]


class Given:
    """Pseudo-labels that were prepared: the labelled tiles' own."""

    def __init__(self, world):
        self.batch, self.size, self.teacher = views_of(world), BATCH // world.ranks, Scripted([True])
        self.monitor = monitor_of(self.teacher, world=world)

    def __call__(self, progress):
        return PseudoBatch(self.batch.weak, self.batch.labels, [])


def step_of(kind, world, ohem):
    model = copy.deepcopy(STUDENT)
    if kind == "kd":
        return KdStep(model, TEACHER, ohem, 3.0, 0.7, consolidation(model, 0.4), world)
    more = {"strong_views": 2, "feature_dropout": 0.5} if kind == "views" else {}
    return SemiStep(model, Given(world), model, ohem, 0.7, world=world, **more)


def one_update(world, kind, passes, folder, ohem=NOTHING):
    """Return the losses of a batch over all ranks, and its gradient, by the loop's own update."""
    step, kept = step_of(kind, world, ohem), []
    engine = Engine(CPU, step.model, torch.optim.SGD(step.model.parameters(), lr=0.1))
    engine.world = world
    engine.update = lambda: kept.extend(p.grad.clone() for p in step.model.parameters())
    phase = phase_of(batch=BATCH, micro_batches=passes)
    trainer = Trainer(phase, step, engine, Checkpoints(folder), Journal(folder, CLASSES, False))
    step.train()
    losses = _train_step(trainer, step.prepare(views_of(world), 0.5), 3)
    gradient = torch.cat([world.all_reduce_sum(g).flatten() for g in kept])
    return {name: world.all_reduce_sum(share) for name, share in losses.items()}, gradient


@pytest.fixture(autouse=True)
def plain_views(monkeypatch):
    """Let pseudo-labelled tiles be as they are: CutMix mixes neighbours before the batch is cut."""
    monkeypatch.setattr("mkd.train.steps.semi.strong_colour", lambda images, draws: images)
    monkeypatch.setattr("mkd.train.steps.semi.cutmix", lambda images, labels, *others: (images, labels))


def same(found, expected):
    """Whether losses and gradients agree to 1e-5 of their size."""
    assert expected[1].abs().max() > 1e-2
    torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-6)
    assert found[0].keys() == expected[0].keys()
    for name, value in expected[0].items():
        torch.testing.assert_close(found[0][name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", ["kd", "semi", "views"])
@pytest.mark.parametrize("micro", [1, 2])
def test_forward_passes_do_not_weigh(tmp_path, kind, micro):
    """micro=1 and 2 give the losses and the gradient of micro=4: a tile of few valid pixels counts by its pixels."""
    whole = one_update(CPU, kind, 1, tmp_path)
    assert whole[0]["loss_sup"] == 0 < whole[0]["loss_kd" if kind == "kd" else "loss_cons"]
    same(one_update(CPU, kind, BATCH // micro, tmp_path), whole)


@pytest.mark.parametrize("ohem", [NOTHING, SupervisedLoss(1.0, 1.0), SupervisedLoss(0.4, 0.3)])
@pytest.mark.parametrize("kind", ["kd", "semi", "views"])
def test_ranks_and_forward_passes_are_one_product(tmp_path, kind, ohem):
    """2 ranks in one pass are 1 rank, and so are 2 ranks in two passes 1 rank in two, as far as L_KD and L_cons go.

    L_sup depends on the tiles in one forward pass of all ranks; without labels it is 0 everywhere.
    """
    for passes in (1, 2):
        ranks = on_threads(2, lambda world, n=passes: one_update(world, kind, n, tmp_path, ohem))
        if passes == 1 or ohem is NOTHING:  # two ranks' first passes hold tiles 0 and 2, one rank's 0 and 1
            same(ranks[0], one_update(CPU, kind, passes, tmp_path, ohem))
        else:
            name = "loss_kd" if kind == "kd" else "loss_cons"
            torch.testing.assert_close(ranks[0][0][name], one_update(CPU, kind, 1, tmp_path, ohem)[0][name])


def test_l_sup_is_the_mean_of_the_passes(tmp_path):
    """What is not exact, and is said to be so: with every labelled pixel kept, unlike passes count alike in L_sup."""
    losses = {
        passes: one_update(CPU, "kd", passes, tmp_path, SupervisedLoss(1.0, 1.0))[0]["loss_sup"]
        for passes in (1, 2)
    }
    assert losses[1] != pytest.approx(losses[2].item(), rel=1e-3)


def test_other_forward_passes_are_said(tmp_path, capsys):
    """Going on with other forward passes than the checkpoint's is one warning with both numbers, else none."""
    data = write_sets(tmp_path)
    run(tmp_path / "run", data, "supervised", batch=4, kill=4)
    capsys.readouterr()
    run(tmp_path / "run", data, "supervised", batch=4, kill=5)
    assert "WARNING" not in capsys.readouterr().out
    run(tmp_path / "run", data, "supervised", batch=4, micro_batches=2)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "WARNING" in line]
    assert "comes from forward passes of 4 tiles over all ranks, now they have 2" in line
    assert "ranks x data.micro = 4 keeps them" in line


def test_the_tiny_net_would_not_do():
    """The counterpart: BatchNorm sees one forward pass, so a network with it depends on the passes."""
    model, images = tiny_net().train(), views_of(CPU).images
    model[3].p = 0.0
    whole, parts = model(images), torch.cat([model(images[:2]), model(images[2:])])
    assert (whole - parts).abs().max() > 1e-3
