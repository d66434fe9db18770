"""What a rank does in tests of feeds and steps: read its part of a stream; train by the calls that the loop makes."""

import copy

import torch

from mkd.distributed.engine import Engine
from mkd.models.dropout import seed_dropout
from mkd.train.batches import StepBatch
from mkd.train.steps.kd import Consolidation, KdStep
from mkd.train.steps.supervised import SupervisedLoss, SupervisedStep
from tests.helpers.training.nets import perturb, tiny_net
from tests.helpers.training.runs import feed_of

BATCH, STEPS, OHEM = 6, 20, SupervisedLoss(0.4, 0.3)
KINDS = ("supervised", "frozen", "kd")


def consolidation(student, weight):
    """Make an anchor away from the student and a Fisher that leaves the classifier out."""
    anchor = copy.deepcopy(student)
    perturb(anchor, 3)
    g = torch.Generator().manual_seed(4)
    params = {n: p.detach() for n, p in anchor.named_parameters()}
    names = [n for n, _ in student.named_parameters() if not n.startswith("4.")]
    return Consolidation(params, {n: torch.rand(params[n].shape, generator=g) for n in names}, weight)


def step_of(world, kind):
    """Make a `supervised`, `frozen` (only the classifier learns) or `kd` step, the same on every rank."""
    model = tiny_net()
    if kind == "kd":
        teacher = tiny_net(seed=1).eval().requires_grad_(False)
        return KdStep(model, teacher, OHEM, 3.0, 0.7, consolidation(model, 0.4), world)
    if kind == "frozen":
        model[:4].requires_grad_(False)
        return SupervisedStep(model, OHEM, [model[0], model[1]], world)
    return SupervisedStep(model, OHEM, world=world)


def global_batch(number, unlabelled, side=10):
    """Make the views of one step over all ranks; the second leaves the first rank without a label, the third all."""
    g = torch.Generator().manual_seed(number)
    labels = torch.randint(0, 4, (BATCH, side, side), generator=g, dtype=torch.uint8)
    views = StepBatch(torch.rand(BATCH, 3, side, side, generator=g), labels.masked_fill(labels == 3, 255))
    views.labels[: {1: BATCH // 2, 2: BATCH}.get(number, 0)] = 255
    if unlabelled:
        views.weak = torch.randint(0, 256, (BATCH, 3, side, side), generator=g, dtype=torch.uint8)
        views.inside = torch.rand(BATCH, side, side, generator=g) < 0.7
    return views


def train(world, kind, engine="auto"):
    """Train; return each step's losses (summed over the ranks), each step's gradients, and the last weights.

    Under ZeRO there are no gradients to be seen.
    """
    step, size = step_of(world, kind), BATCH // world.ranks
    learns = [p for p in step.model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learns, lr=0.1, momentum=0.9, weight_decay=1e-3)
    engine = Engine(world, step.model, optimizer, kind=engine, rank_batch=size)
    step.net = engine.net
    step.train()
    losses, gradients = [], []
    for number in range(STEPS):
        views = global_batch(number, kind == "kd").split(world.ranks)[world.rank]
        slots = range(world.rank * size, (world.rank + 1) * size)
        seed_dropout(step.model, 0, number, slots, BATCH)
        with engine.accumulating(True), engine.autocast():
            shares = step(step.prepare(views, number / STEPS), number % 4 == 3)
            engine.backward(shares["loss"])
        summed = world.all_reduce_sum(torch.stack([s.detach() for s in shares.values()]))
        losses.append(dict(zip(shares, summed.tolist(), strict=True)))
        gradients.append(
            torch.cat([torch.zeros(0)] + [p.grad.flatten() for p in learns if p.grad is not None])
        )
        engine.update()
        step.after_update()
    weights = {name: t.clone() for name, t in step.model.state_dict().items()}
    return {"losses": losses, "gradients": torch.stack(gradients), "weights": weights}


def train_all(world):
    """Train each kind of step, one after the other."""
    return {kind: train(world, kind) for kind in KINDS}


def read_stream(world, steps, folder):
    """Read this rank's part of a stream; all ranks agree after each step that everybody got a batch."""
    feed = feed_of(folder, folder, batch=world.ranks, world=world, workers=1)
    seen = []
    for views in feed(0, int(steps)):
        # A rank without a batch would leave the others waiting here.
        assert world.all_reduce_sum(torch.tensor(len(views.images))) == world.ranks
        seen.append((views.images, views.labels, views.weak, views.inside))
    return seen
