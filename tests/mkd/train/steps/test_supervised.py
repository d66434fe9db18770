"""The supervised step: L = L_sup, and frozen parts stay as they are."""

import copy

import pytest
import torch

from mkd.distributed.engine import Engine
from mkd.train.batches import StepBatch
from mkd.train.steps.supervised import SupervisedLoss, SupervisedStep
from tests.helpers import references
from tests.helpers.processes.threads import on_threads
from tests.helpers.training.nets import tiny_net
from tests.helpers.training.runs import CPU


def views_of(seed=0, batch=2, side=6):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (batch, side, side), generator=g, dtype=torch.uint8)
    return StepBatch(torch.rand(batch, 3, side, side, generator=g), labels.masked_fill(labels == 3, 255))


@pytest.mark.parametrize(("threshold", "min_kept"), [(0.7, 1 / 16), (0.0, 0.25), (1.0, 0.0), (0.3, 0.5)])
def test_loss_is_ohem_of_the_logits(threshold, min_kept):
    """`loss` is L_sup, with min_kept as a share of the batch's pixels."""
    model, views = tiny_net(), views_of()
    model[3].p = 0.0  # dropped channels would make equal pixels, of which a reference may keep others
    step = SupervisedStep(model, SupervisedLoss(threshold, min_kept))
    step.train()
    logits = copy.deepcopy(model)(views.images)
    losses = step(views, False)
    expected = references.ohem(logits.detach().double(), views.labels, threshold, int(min_kept * 72))
    assert losses["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert losses["loss_sup"].item() == losses["loss"].item()
    assert set(losses) == {"loss", "loss_sup"}


def test_named_losses_hold_no_graph():
    """Only `loss` can be differentiated; the named parts are for the journal."""
    losses = SupervisedStep(tiny_net(), SupervisedLoss(0.7, 0.1))(views_of(), False)
    assert losses["loss"].requires_grad
    assert not losses["loss_sup"].requires_grad


def test_frozen_modules_stay():
    """A frozen module keeps weights and BatchNorm statistics through training; the rest moves."""
    model = tiny_net()
    model.requires_grad_(False)
    model[4].requires_grad_(True)
    before = copy.deepcopy(model.state_dict())
    step = SupervisedStep(model, SupervisedLoss(0.7, 0.1), frozen=[model[0], model[1]])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    engine = Engine(CPU, model, optimizer)
    for seed in range(3):
        step.train()
        engine.backward(step(views_of(seed), False)["loss"])
        engine.update()
        step.after_update()
    moved = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert moved == {"4.weight", "4.bias"}
    assert [m.training for m in model] == [False, False, True, True, True]


def test_without_frozen_modules_statistics_move():
    """The counterpart: unfrozen, BatchNorm follows the batches."""
    model = tiny_net()
    before = copy.deepcopy(model.state_dict())
    step = SupervisedStep(model, SupervisedLoss(0.7, 0.1))
    model.eval()
    step.train()
    step(views_of(), False)
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])


def test_forward_passes_go_through_the_net():
    """`net` is the model until an engine puts its wrapper there; then forward passes go through the wrapper."""
    step, seen = SupervisedStep(tiny_net(), SupervisedLoss(0.7, 0.1)), []
    assert step.net is step.model

    def wrapper(images):
        seen.append(images)
        return step.model(images)

    step.net, views = wrapper, views_of()
    step(step.prepare(views, 0.5), False)
    assert [images is views.images for images in seen] == [True]


def test_min_kept_is_a_share_of_all_ranks_pixels():
    """A rank of two asks for twice the pixels that it would ask for alone, and sums its counts over both."""
    z, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)
    z[0, 0] = torch.arange(16).view(4, 4) / 8
    rank_of = on_threads(2, lambda world: SupervisedLoss(0.0, 0.25)(z, labels, world))
    twice = SupervisedLoss(0.0, 0.25)(torch.cat([z, z]), torch.cat([labels, labels]), CPU)
    assert sum(share.item() for share in rank_of) == pytest.approx(twice.item(), rel=1e-6)
    assert twice.item() == pytest.approx(references.ohem(z, labels, 0.0, 4), rel=1e-5)


def test_the_result_is_the_network():
    """What is validated and saved is the trained network; nothing else needs saving."""
    model = tiny_net()
    step = SupervisedStep(model, SupervisedLoss(0.7, 0.1))
    assert step.result is model
    assert step.state_dict() == {}
