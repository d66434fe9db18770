"""The second peer of the semi-supervised stage: UniMatch's step, with the product's network, crop, batch and optimizer.

The student labels the weak view itself, and learns from two strong views and from features with half of their channels
dropped. There is no moving average; each step sees twice as many unlabelled tiles, whose second half is mixed in.

Source: Yang et al. 2023, "Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic Segmentation", section 3,
and the public code of that paper for weights and boxes.
"""

import contextlib
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mkd.benchmarks.step.plain import updates
from mkd.benchmarks.step.plain_views import Views, plain_batches
from mkd.config.schema import SemiRun
from mkd.labels import IGNORE
from mkd.model_folder import load_model
from mkd.models.segmentation import SegmentationNetwork

STRONG_VIEWS = 2


def unimatch_steps(run: SemiRun, files: Path, device: torch.device) -> Iterator[None]:
    """Train without end; each ``next`` does one step.

    Args:
        run: config of the product's run.
        files: folder of the tiles, see `write_files`.
        device: to train on.
    """
    student = load_model(run.semi.start)[0].to(device).to(memory_format=torch.contiguous_format).train()
    tiles = unimatch_batches(run, files, files, device)
    for _ in updates(run, student, lambda: unimatch_loss(run, student, *next(tiles))):
        yield


def unimatch_batches(
    run: SemiRun, labelled: Path, unlabelled: Path, device: torch.device
) -> Iterator[tuple[Views, Views, Views]]:
    """Yield what `unimatch_loss` takes, without end: labelled, unlabelled and mixed tiles of two folders."""
    weak, mixed = (plain_batches(unlabelled, run.data, False, device, STRONG_VIEWS) for _ in range(2))
    return zip(plain_batches(labelled, run.data, True, device), weak, mixed, strict=True)


def unimatch_loss(
    run: SemiRun,
    student: SegmentationNetwork,
    labelled: tuple[Tensor, ...],
    unlabelled: tuple[Tensor, ...],
    mixed: tuple[Tensor, ...],
) -> Tensor:
    """Return (L_x + (L_s1 + L_s2) / 4 + L_fp / 2) / 2.

    Args:
        run: of the product; its confidence is the threshold.
        student: in training mode.
        labelled: images (B,3,S,S) and labels (B,S,S).
        unlabelled: weak and two strong views (B,3,S,S), and the pixels inside the tile, bool (B,S,S).
        mixed: the same of other tiles, of which boxes are pasted into the strong views.
    """
    (images, labels), (weak, *strong, inside), (other, *other_strong, other_inside) = (
        labelled,
        unlabelled,
        mixed,
    )
    limit, count = run.semi.confidence, len(images)
    # The other tiles' labels, of the student as it is.
    student.eval()
    with torch.no_grad():
        other_pseudo = _pseudo_labels(student(other), other_inside, limit)
    student.train()
    # Labelled and weak views, and the same with dropped features.
    with feature_dropout(student):
        logits, dropped = student(torch.cat([images, weak])).chunk(2)
    pseudo = _pseudo_labels(logits[count:].detach(), inside, limit)
    # Both strong views, each with boxes of its own.
    boxes = [box_masks(len(weak), weak.shape[-1], weak.device) for _ in strong]
    pasted = [
        torch.where(box[:, None], theirs, ours)
        for box, ours, theirs in zip(boxes, strong, other_strong, strict=True)
    ]
    found = student(torch.cat(pasted)).chunk(len(pasted))
    loss = F.cross_entropy(logits[:count], labels.long(), ignore_index=IGNORE)
    for box, z in zip(boxes, found, strict=True):
        target, there = torch.where(box, other_pseudo, pseudo), torch.where(box, other_inside, inside)
        loss = loss + _consistency(z, target, there) / 4
    return (loss + _consistency(dropped[count:], pseudo, inside) / 2) / 2


@contextlib.contextmanager
def feature_dropout(network: SegmentationNetwork) -> Iterator[None]:
    """Let the backbone of a network return its maps twice in a batch, the second time with half of the channels 0."""

    def doubled(module: nn.Module, given: Any, maps: Any) -> list[Tensor]:
        return [torch.cat([m, F.dropout2d(m, 0.5)]) for m in maps]

    hook = network.backbone.register_forward_hook(doubled)
    try:
        yield
    finally:
        hook.remove()


def box_masks(count: int, side: int, device: torch.device) -> Tensor:
    """Return bool (count,side,side): a box of 2 to 40 % of the pixels in half of the tiles."""
    masks = torch.zeros(count, side, side, dtype=torch.bool)
    for mask in masks:
        if random.random() < 0.5:
            continue
        w = h = x = y = side
        while x + w > side or y + h > side:
            area, aspect = side**2 * random.uniform(0.02, 0.4), random.uniform(0.3, 1 / 0.3)
            w, h = int(math.sqrt(area / aspect)), int(math.sqrt(area * aspect))
            x, y = random.randint(0, side), random.randint(0, side)
        mask[y : y + h, x : x + w] = True
    return masks.to(device)


def _pseudo_labels(logits: Tensor, inside: Tensor, limit: float) -> Tensor:
    confidence, pseudo = logits.softmax(1).max(1)
    return pseudo.masked_fill((confidence < limit) | ~inside, IGNORE)


def _consistency(logits: Tensor, target: Tensor, inside: Tensor) -> Tensor:
    """Return the cross-entropy of the sure pixels, as a mean over all pixels inside."""
    total = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
    return total / inside.sum().clamp(min=1)
