"""The distillation step: L = L_sup + w_kd L_KD + w_ewc L_EWC, and the teacher only teaches."""

import copy

import numpy as np
import pytest
import torch

from mkd.distributed.engine import Engine
from mkd.train.batches import StepBatch
from mkd.train.steps.kd import KdStep
from mkd.train.steps.supervised import SupervisedLoss
from tests.helpers import references
from tests.helpers.training.nets import tiny_net
from tests.helpers.training.runs import CPU
from tests.helpers.training.steps import consolidation

T, W_KD, W_EWC = 3.0, 0.7, 0.4


def views_of(seed=0, unlabelled=False, batch=2, side=5):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (batch, side, side), generator=g, dtype=torch.uint8)
    views = StepBatch(torch.rand(batch, 3, side, side, generator=g), labels.masked_fill(labels == 3, 255))
    if unlabelled:
        views.weak = torch.randint(0, 256, (batch, 3, side, side), generator=g, dtype=torch.uint8)
        views.inside = torch.rand(batch, side, side, generator=g) < 0.7
    return views


def step_of(ewc=True, weight=W_KD):
    student, teacher = tiny_net(seed=0), tiny_net(seed=1).eval().requires_grad_(False)
    return KdStep(
        student, teacher, SupervisedLoss(0.7, 0.1), T, weight, consolidation(student, W_EWC) if ewc else None
    )


def forward(step, images, seed=9):
    """Logits of teacher and of a copy of the student in training mode, with the dropout of this seed."""
    torch.manual_seed(seed)
    student = copy.deepcopy(step.model).train()
    with torch.no_grad():
        return student(images).double(), copy.deepcopy(step.teacher).eval()(images).double()


def answer(step, views, measure_gradients=False, seed=9):
    step.train()
    torch.manual_seed(seed)
    return step(step.prepare(views, 0.0), measure_gradients)


def ewc_by_hand(step):
    total = 0.0
    for name, theta in step.model.named_parameters():
        if name in step.ewc.fisher:
            f, a, t = (
                np.asarray(x.detach(), np.float64)
                for x in (step.ewc.fisher[name], step.ewc.anchor[name], theta)
            )
            total += (f * (t - a) ** 2).sum()
    return total / 2


def test_loss_is_the_named_sum():
    """loss = L_sup + w_kd L_KD + w_ewc L_EWC, each from its formula; 255 counts in neither of the first two."""
    step, views = step_of(), views_of()
    z_s, z_t = forward(step, views.images)
    losses = answer(step, views)
    sup = references.ohem(z_s, views.labels, 0.7, int(0.1 * views.labels.numel()))
    kd = references.distillation(z_s, z_t, T, views.labels != 255)
    ewc = ewc_by_hand(step)
    assert min(sup, kd, ewc) > 1e-3
    for name, value in {"loss_sup": sup, "loss_kd": kd, "loss_ewc": ewc}.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4), name
    assert losses["loss"].item() == pytest.approx(sup + W_KD * kd + W_EWC * ewc, rel=1e-4)


def test_all_tiles_add_to_l_kd_only():
    """With kd.tiles=all the unlabelled pixels inside their tile join L_KD's mean; L_sup sees labels only."""
    step, views = step_of(), views_of(unlabelled=True)
    images = torch.cat([views.images, views.weak.float() / 255])
    z_s, z_t = forward(step, images)
    losses = answer(step, views)
    valid = torch.cat([views.labels != 255, views.inside])
    assert losses["loss_kd"].item() == pytest.approx(references.distillation(z_s, z_t, T, valid), rel=1e-4)
    sup = references.ohem(z_s[:2], views.labels, 0.7, int(0.1 * views.labels.numel()))
    assert losses["loss_sup"].item() == pytest.approx(sup, rel=1e-4)


def test_without_ewc_the_term_is_not_there():
    """ewc=None gives L_sup + w_kd L_KD and no name for the third."""
    losses = answer(step_of(ewc=False), views_of())
    assert set(losses) == {"loss", "loss_sup", "loss_kd"}
    assert losses["loss"].item() == pytest.approx((losses["loss_sup"] + W_KD * losses["loss_kd"]).item())


def test_the_teacher_only_teaches():
    """Through training the teacher stays in eval mode, unchanged, and receives no gradient."""
    step = step_of()
    step.teacher.requires_grad_(True)  # even if someone forgot to freeze it
    before = copy.deepcopy(step.teacher.state_dict())
    optimizer = torch.optim.SGD(step.model.parameters(), lr=0.1)
    engine = Engine(CPU, step.model, optimizer)
    start = copy.deepcopy(step.model.state_dict())
    for seed in range(3):
        step.train()
        views = step.prepare(views_of(seed, unlabelled=True), 0.0)
        engine.backward(step(views, seed == 1)["loss"])
        engine.update()
        step.after_update()
    assert not any(m.training for m in step.teacher.modules())
    assert all(p.grad is None for p in step.teacher.parameters())
    assert all(torch.equal(t, before[n]) for n, t in step.teacher.state_dict().items())
    assert not any(torch.equal(t, start[n]) for n, t in step.model.named_parameters())


def test_diagnosis_is_the_ratio_of_gradients():
    """ewc_ratio = w_ewc |grad L_EWC| / |grad L_sup| over the parameters with a Fisher."""
    step, views = step_of(), views_of()
    losses = answer(step, views, measure_gradients=True)
    student = copy.deepcopy(step.model).train()
    torch.manual_seed(9)
    z = student(views.images)
    valid = views.labels != 255
    loss = torch.nn.functional.cross_entropy(z, views.labels.long(), ignore_index=255, reduction="none")[
        valid
    ]
    p = torch.exp(-loss.detach())
    keep = (p < 0.7) | (p <= p.sort().values[int(0.1 * views.labels.numel()) - 1])
    loss[keep].mean().backward()
    own = dict(student.named_parameters())
    sup = sum(own[n].grad.double().square().sum() for n in step.ewc.fisher) ** 0.5
    pull = sum(
        (f * (own[n].detach() - step.ewc.anchor[n])).double().square().sum()
        for n, f in step.ewc.fisher.items()
    )
    assert losses["ewc_ratio"].item() == pytest.approx((W_EWC * pull**0.5 / sup).item(), rel=1e-3)


def test_diagnosis_changes_no_number():
    """With and without it a step gives the same losses and the same gradients, bit for bit."""
    grads = []
    for measure_gradients in (False, True):
        step = step_of()
        losses = answer(step, views_of(), measure_gradients)
        losses["loss"].backward()
        grads.append([losses["loss"].detach(), *(p.grad for p in step.model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_a_batch_without_labels_still_distils():
    """With every label 255 and unlabelled tiles, L_sup is 0, L_KD is not, and no gradient is NaN."""
    step, views = step_of(), views_of(unlabelled=True)
    views.labels.fill_(255)
    losses = answer(step, views)
    losses["loss"].backward()
    assert losses["loss_sup"].item() == 0
    assert losses["loss_kd"].item() > 0
    assert all(torch.isfinite(p.grad).all() for p in step.model.parameters())
