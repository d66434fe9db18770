"""The semi-supervised step: L = L_sup + w_u L_cons, on pseudo-labels inside the tiles."""

import copy

import numpy as np
import pytest
import torch

from mkd.data.augment import cutmix, strong_colour
from mkd.dist.engine import Engine
from mkd.semi.entropy import PseudoLabels, TileLimit
from mkd.teacher.local import LocalTeacher
from mkd.train.semi_step import SemiStep
from mkd.train.supervised_step import Ohem
from mkd.train.views import Views
from tests.helpers import references
from tests.helpers.nets import tiny_net
from tests.helpers.runs import CPU

W_U = 0.6


class Answers:
    """A teacher that gives prepared labels and remembers what it was asked."""

    def __init__(self, labels):
        self.labels, self.asked, self.followed = labels, [], 0

    def label(self, images, progress):
        self.asked.append((images.clone(), progress))
        score = torch.tensor([0.25, 0.75])
        return PseudoLabels(self.labels.clone(), score, torch.tensor([True, False]), 0)

    def follow(self, student):
        self.followed += 1


def draws_of(seed=5, batch=2):
    return [np.random.default_rng([seed, n]) for n in range(batch)]


def views_of(seed=0, batch=2, side=12):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (batch, side, side), generator=g, dtype=torch.uint8)
    weak = torch.randint(0, 256, (batch, 3, side, side), generator=g, dtype=torch.uint8)
    inside = torch.ones(batch, side, side, dtype=torch.bool)
    inside[:, :, side // 2 :] = False
    return Views(torch.rand(batch, 3, side, side, generator=g), labels, weak, inside, draws_of(batch=batch))


def pseudo_labels(seed=1, side=12):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (2, side, side), generator=g, dtype=torch.uint8)
    return labels.masked_fill(labels == 3, 255)


def step_of(labels=None):
    model = tiny_net()
    return SemiStep(model, Answers(pseudo_labels() if labels is None else labels), model, Ohem(0.7, 0.1), W_U)


def answer(step, views, seed=9):
    step.train()
    torch.manual_seed(seed)
    return step(views, 0.5, False)


def test_loss_is_the_named_sum():
    """loss = L_sup(labelled) + w_u L_cons(strong view, pseudo-labels inside the tile), each from its formula."""
    step, views = step_of(), views_of()
    losses = answer(step, views)
    draws = draws_of()
    strong = strong_colour(views.weak.float() / 255, draws)
    strong, labels = cutmix(strong, pseudo_labels().masked_fill(~views.inside, 255), draws)
    student = tiny_net().train()
    torch.manual_seed(9)
    with torch.no_grad():
        z = student(torch.cat([views.images, strong])).double()
    sup = references.ohem(z[:2], views.labels, 0.7, int(0.1 * views.labels.numel()))
    cons = references.cross_entropy(z[2:], labels)
    assert losses["loss_sup"].item() == pytest.approx(sup, rel=1e-4)
    assert losses["loss_cons"].item() == pytest.approx(cons, rel=1e-4)
    assert losses["loss"].item() == pytest.approx(sup + W_U * cons, rel=1e-4)


def test_pseudo_labels_outside_the_tile_are_dropped():
    """What the teacher says beyond a tile's edge changes no loss and counts as not kept."""
    labels = pseudo_labels()
    other = labels.clone()
    other[:, :, 6:] = 1
    first, second = (answer(step_of(given), views_of()) for given in (labels, other))
    assert first["loss"].item() == second["loss"].item()
    assert first["kept_pixels"].item() == second["kept_pixels"].item()
    assert first["kept_pixels"].item() == pytest.approx((labels[:, :, :6] != 255).float().mean().item() / 2)


def test_shares_are_those_of_the_filters():
    """kept_tiles is the accepted share and tile_entropy the mean score."""
    losses = answer(step_of(), views_of())
    assert losses["kept_tiles"].item() == 0.5
    assert losses["tile_entropy"].item() == 0.5


def test_nothing_kept_leaves_l_sup():
    """With every pseudo-label dropped, L_cons is 0 and the loss is L_sup, gradients finite."""
    step = step_of(torch.full((2, 12, 12), 255, dtype=torch.uint8))
    losses = answer(step, views_of())
    losses["loss"].backward()
    assert losses["loss_cons"].item() == 0
    assert losses["loss"].item() == losses["loss_sup"].item()
    assert all(torch.isfinite(p.grad).all() for p in step.model.parameters())


def test_the_teacher_sees_the_weak_view_and_the_progress():
    """The teacher labels the weak view as it is, once a step, and follows once an update."""
    step, views = step_of(), views_of()
    answer(step, views)
    ((images, progress),) = step.teacher.asked
    assert torch.equal(images, views.weak)
    assert progress == 0.5
    step.updated()
    assert step.teacher.followed == 1


def test_the_local_teacher_learns_by_ema_only():
    """Through training the teacher gets no gradient, stays in eval mode, and moves only by following."""
    model = tiny_net()
    teacher = LocalTeacher(model, 0.99, 0.0, TileLimit(absolute=1.0))
    step = SemiStep(model, teacher, teacher.model, Ohem(0.7, 0.1), W_U)
    engine, optimizer = Engine(CPU, model, None), torch.optim.SGD(model.parameters(), lr=0.1)
    for seed in range(3):
        before = copy.deepcopy(teacher.model.state_dict())
        engine.update(answer(step, views_of(seed))["loss"], optimizer)
        assert all(torch.equal(t, before[n]) for n, t in teacher.model.state_dict().items())
        step.updated()
    assert not any(torch.equal(p, before[n]) for n, p in teacher.model.named_parameters())
    assert not any(m.training for m in teacher.model.modules())
    assert all(p.grad is None for p in teacher.model.parameters())
    assert step.result is teacher.model


def test_state_is_the_teachers():
    """A checkpoint of the step holds what the teacher needs to go on."""
    steps = []
    for seed in (0, 1):
        model = tiny_net(seed=seed)
        teacher = LocalTeacher(model, 0.99, 0.0, TileLimit())
        steps.append(SemiStep(model, teacher, model, Ohem(0.7, 0.1), W_U))
    answer(steps[0], views_of())
    steps[0].updated()
    steps[1].load_state_dict(copy.deepcopy(steps[0].state_dict()))
    mine, theirs = (s.teacher.label(views_of(7).weak, 0.3) for s in steps)
    assert torch.equal(mine.labels, theirs.labels)
    assert mine.accepted.tolist() == theirs.accepted.tolist()
    assert mine.version == theirs.version == 1
