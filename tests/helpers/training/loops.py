"""Tiny trainings of each kind for tests of the loop: supervised, distillation, semi-supervised."""

from dataclasses import replace

import torch

from mkd.inference.evaluator import confusion
from mkd.loader.loader import TileSet
from mkd.semi.entropy import TileLimit
from mkd.teacher.local import LocalTeacher
from mkd.train.steps.kd import Consolidation, KdStep
from mkd.train.steps.supervised import SupervisedLoss, SupervisedStep
from tests.helpers.shards import pictures, write_dataset
from tests.helpers.training.nets import tiny_net
from tests.helpers.training.pseudo import semi_step_of
from tests.helpers.training.runs import CPU, coloured, feed_of, fit_in, phase_of

OHEM = SupervisedLoss(0.7, 0.1)
KINDS = ("supervised", "kd", "semi")


def write_sets(root):
    """Write 6 labelled, 6 unlabelled (half of them noise) and 3 validation tiles of 16 x 16 pixels."""
    sets = {
        "labelled": coloured(6, (16, 16), seed=6),
        "unlabelled": coloured(3, (16, 16), seed=4) + pictures(3, (16, 16), seed=4),
        "val": coloured(3, (16, 16), seed=2),
    }
    return {n: write_dataset(root / n, pairs, labelled=n != "unlabelled") for n, pairs in sets.items()}


def kd(seed, world=CPU):
    """A step with teacher, anchor and Fisher, which no checkpoint holds, and a student of this seed."""
    student, teacher = tiny_net(seed=seed), tiny_net(seed=50).eval().requires_grad_(False)
    anchor = {n: p.detach().clone() for n, p in tiny_net(seed=51).named_parameters()}
    fisher = {n: torch.rand(p.shape, generator=torch.Generator().manual_seed(52)) for n, p in anchor.items()}
    return KdStep(student, teacher, OHEM, 3.0, 1.0, Consolidation(anchor, fisher, 0.1), world)


def semi(seed, feed, teacher=LocalTeacher):
    """A step with an EMA teacher, the percentile tile filter and a pool of tiles; all have memory."""
    student = tiny_net(seed=seed)
    with torch.no_grad():
        student[4].weight *= 8  # sure of some pixels, so that tiles differ
    limit = TileLimit(drop_start=0.4, drop_end=0.3, window=6)
    made = teacher(student, 0.9, 0.7, limit, gather=feed.world.gather)
    return semi_step_of(student, made, feed, made.model)


def step_and_feed(kind, seed, labelled, unlabelled, world=CPU, **more):
    """Make a step and what feeds it; the semi-supervised one reads its unlabelled tiles itself."""
    feed = feed_of(labelled, None if kind == "supervised" else unlabelled, crop=16, world=world, **more)
    if kind == "supervised":
        return SupervisedStep(tiny_net(seed=seed), OHEM, world=world), feed
    if kind == "kd":
        return kd(seed, world), feed
    return semi(seed, feed), replace(feed, unlabelled=None)


def validation(data, world=CPU):
    """Make what a run validates with."""
    tiles = TileSet(data["val"], labelled=True)
    return lambda model: confusion(model, tiles, 2, world, window=None)


def run(folder, data, kind, seed=0, kill=None, world=CPU, batch=None, **phase):
    """Train 8 steps of batches that do not divide an epoch, by default."""
    batch = batch or (3 if kind == "semi" else 2)
    step, feed = step_and_feed(kind, seed, data["labelled"], data["unlabelled"], world, batch=batch)
    monitor = step.pseudo.monitor if kind == "semi" else None
    phase = phase_of(**({"batch": batch} | phase))
    return fit_in(folder, step, feed, phase, validation(data, world), kill, monitor, world)


def equal(one, other):
    """Return whether two states are equal to the bit."""
    return one.keys() == other.keys() and all(torch.equal(t, other[n]) for n, t in one.items())
