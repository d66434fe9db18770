"""The peer: a plain loop written straight from the paper, float32, contiguous, a loop over tensors where one is due.

It is what a careful person writes in an afternoon: torch's own optimizer and DataLoader, OHEM as in HRNet's repository,
CutMix and strong views as in UniMatch's. Same network, weights, batch, crop and tiles as the product's run.
"""

import copy
import math
import random
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mkd.benchmarks.step.plain_views import plain_batches
from mkd.config.schema import KdRun, OhemConfig, RunConfig, SemiRun, SupervisedRun
from mkd.labels import IGNORE
from mkd.model_folder import load_model

Loss = Callable[[], Tensor]


def plain_steps(run: RunConfig, files: Path, device: torch.device) -> Iterator[None]:
    """Train without end; each ``next`` does one step.

    Args:
        run: config of the product's run.
        files: folder of the tiles, see `write_files`.
        device: to train on.
    """
    student = load_model(_start(run))[0].to(device).to(memory_format=torch.contiguous_format).train()
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    for step in updates(run, student, _loss(run, student, teacher, files, device)):
        if isinstance(run, SemiRun):
            update_average(teacher, student, min(1 - 1 / (step + 1), 0.999))
        yield


def updates(run: RunConfig, student: nn.Module, loss: Loss) -> Iterator[int]:
    """Update a network without end by torch's own optimizer; yield the number of each update, from 0 on.

    Args:
        run: config of the product's run.
        student: on its device.
        loss: of the next batch.
    """
    o = run.optim
    if o.name == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(student.parameters(), o.lr, o.momentum)
    else:
        optimizer = torch.optim.AdamW(student.parameters(), o.lr, weight_decay=o.weight_decay)
    for step in count():
        for group in optimizer.param_groups:
            group["lr"] = o.lr * (1 - step / (run.steps or 1)) ** o.power
        value = loss()
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if (step + 1) % run.log_every == 0:
            value.item()
        yield step


def _start(run: RunConfig) -> str:
    """Return the model folder that a run starts from."""
    match run:
        case SupervisedRun():
            return run.student_init
        case KdRun():
            return str(run.kd.source)
        case SemiRun():
            return run.semi.start
    raise AssertionError(run)


def _loss(run: RunConfig, student: nn.Module, teacher: nn.Module, files: Path, device: torch.device) -> Loss:
    """Return the loss of a stage, of the next batch."""
    labelled = plain_batches(files, run.data, True, device)
    match run:
        case KdRun():
            anchor = {n: p.detach().clone() for n, p in student.named_parameters()}
            # How the Fisher was estimated makes no difference to a step.
            fisher = {n: torch.rand_like(p) for n, p in anchor.items()}
            return lambda: kd_loss(run, student, teacher, anchor, fisher, next(labelled))
        case SemiRun():
            unlabelled = plain_batches(files, run.data, False, device)
            return lambda: semi_loss(run, student, teacher, next(labelled), next(unlabelled))
    return lambda: supervised_loss(run, student, next(labelled))


def supervised_loss(run: RunConfig, student: nn.Module, labelled: tuple[Tensor, ...]) -> Tensor:
    """Return L_sup."""
    images, labels = labelled
    return ohem_loss(student(images), labels.long(), run.ohem)


def kd_loss(
    run: KdRun,
    student: nn.Module,
    teacher: nn.Module,
    anchor: dict[str, Tensor],
    fisher: dict[str, Tensor],
    labelled: tuple[Tensor, ...],
) -> Tensor:
    """Return L_sup + w_kd L_KD + w_ewc L_EWC."""
    images, labels = labelled
    with torch.no_grad():
        z_t = teacher(images)
    z_s, t = student(images), run.kd.temperature
    valid = labels != IGNORE
    kl = F.kl_div((z_s / t).log_softmax(1), (z_t / t).softmax(1), reduction="none").sum(1)
    ewc = torch.zeros((), device=images.device)
    for name, p in student.named_parameters():
        ewc = ewc + (fisher[name] * (p - anchor[name]) ** 2).sum() / 2
    loss = ohem_loss(z_s, labels.long(), run.ohem) + run.kd.weight * t**2 * kl[valid].mean()
    return loss + run.kd.ewc_weight * ewc


def semi_loss(
    run: SemiRun,
    student: nn.Module,
    teacher: nn.Module,
    labelled: tuple[Tensor, ...],
    unlabelled: tuple[Tensor, ...],
) -> Tensor:
    """Return L_sup + w_u L_cons; the teacher labels the weak views here, in the step."""
    (images, labels), (weak, strong, inside), s = labelled, unlabelled, run.semi
    with torch.no_grad():
        p = teacher(weak).softmax(1)
        confidence, pseudo = p.max(1)
        entropy = -(p * (p + 1e-8).log()).sum(1).mean((1, 2)) / math.log(p.shape[1])
        pseudo[(confidence < s.confidence) | ~inside] = IGNORE
        pseudo[entropy > torch.quantile(entropy, 1 - s.drop_start)] = IGNORE
        strong, pseudo = cutmix(strong, pseudo, s.cutmix)
    logits = student(torch.cat([images, strong]))
    loss_cons = F.cross_entropy(logits[len(images) :], pseudo, ignore_index=IGNORE, reduction="sum")
    loss_sup = ohem_loss(logits[: len(images)], labels.long(), run.ohem)
    return loss_sup + s.weight * loss_cons / inside.sum().clamp(min=1)


def ohem_loss(logits: Tensor, labels: Tensor, ohem: OhemConfig) -> Tensor:
    """Return OHEM cross-entropy as HRNet's repository has it: probabilities sorted, the hard ones kept."""
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none").flatten()
    valid = (labels != IGNORE).flatten()
    if ohem.threshold is None:
        return losses[valid].mean()
    known = labels.masked_fill(labels == IGNORE, 0)
    p_y, order = logits.softmax(1).gather(1, known[:, None]).flatten()[valid].sort()
    kth = p_y[min(int(ohem.min_kept * labels.numel()), len(p_y) - 1)]
    return losses[valid][order][p_y < kth.clamp(min=ohem.threshold)].mean()


def cutmix(images: Tensor, labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Paste a box of the next tile into a share of the tiles, image and labels alike."""
    mixed, mixed_labels, side = images.clone(), labels.clone(), images.shape[-1]
    for n in range(len(images)):
        if random.random() >= share:
            continue
        area, aspect = random.uniform(0.02, 0.4), 0.3 ** random.uniform(-1, 1)
        w, h = (min(side, round(side * math.sqrt(area * r))) for r in (aspect, 1 / aspect))
        x, y, other = random.randint(0, side - w), random.randint(0, side - h), (n + 1) % len(images)
        mixed[n, :, y : y + h, x : x + w] = images[other, :, y : y + h, x : x + w]
        mixed_labels[n, y : y + h, x : x + w] = labels[other, y : y + h, x : x + w]
    return mixed, mixed_labels


@torch.no_grad()
def update_average(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Move the teacher's weights towards the student's, tensor by tensor; statistics of BatchNorm with them."""
    for mean, p in zip(teacher.parameters(), student.parameters(), strict=True):
        mean.mul_(decay).add_(p, alpha=1 - decay)
    for kept, new in zip(teacher.buffers(), student.buffers(), strict=True):
        if kept.is_floating_point():
            kept.mul_(decay).add_(new, alpha=1 - decay)
        else:
            kept.copy_(new)
