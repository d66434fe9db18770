"""Boundary F1: how well the edges of each class are met, within a tolerance."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mkd.labels import IGNORE

TOLERANCE = 3  # pixels


def boundary_pixels(ids: Tensor, classes: int) -> Tensor:
    """Return bool (B,C,H,W): pixels of a class that have one of another class beside, above or below.

    Edges to ignored pixels and to the border of the image are no boundaries.

    Args:
        ids: uint8 (B,H,W), 255 = ignored.
        classes: C.
    """
    edge = torch.zeros_like(ids, dtype=torch.bool)
    for one, other in ((ids[:, 1:], ids[:, :-1]), (ids[:, :, 1:], ids[:, :, :-1])):
        differ = (one != other) & (one != IGNORE) & (other != IGNORE)
        if one.shape[1] != ids.shape[1]:
            edge[:, 1:] |= differ
            edge[:, :-1] |= differ
        else:
            edge[:, :, 1:] |= differ
            edge[:, :, :-1] |= differ
    return torch.stack([(ids == c) & edge for c in range(classes)], dim=1)


def boundary_counts(predictions: Tensor, labels: Tensor, classes: int, tolerance: int = TOLERANCE) -> Tensor:
    """Return int64 (C,4): boundary pixels of the prediction and those of them near one of the truth; the reverse.

    Near: a Euclidean distance of at most the tolerance to a boundary pixel of the same class. Where the label is
    ignored the prediction is too.

    Args:
        predictions: integer (B,H,W).
        labels: integer (B,H,W), 255 = ignored.
        classes: C.
        tolerance: pixels, >= 0.
    """
    seen = predictions.masked_fill(labels == IGNORE, IGNORE)
    found, truth = boundary_pixels(seen, classes), boundary_pixels(labels, classes)
    near_truth, near_found = _widened(truth, tolerance), _widened(found, tolerance)
    parts = (found, found & near_truth, truth, truth & near_found)
    return torch.stack([part.sum(dim=(0, 2, 3)) for part in parts], dim=1)


def boundary_f1(counts: Tensor) -> Tensor:
    """Return float64 (C,) of summed `boundary_counts`; NaN for a class without a boundary in the labels.

    ::

        F1 = 2 P R / (P + R),  P = near / all of the prediction's,  R = near / all of the truth's

    Source: Csurka et al. 2013, "What is a good evaluation measure for semantic segmentation?", section 3; summed over
    the data set before the ratio, as the IoU is here.
    """
    found, right, truth, met = counts.double().T
    precision, recall = right / found.clamp(min=1), met / truth.clamp(min=1)
    f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    shown: Tensor = f1.masked_fill(truth == 0, float("nan"))
    return shown


def _widened(masks: Tensor, tolerance: int) -> Tensor:
    """Return the pixels (B,C,H,W) at most so far from one of the mask: a convolution with a disc."""
    steps = torch.arange(-tolerance, tolerance + 1, device=masks.device)
    disc = (steps[:, None] ** 2 + steps**2 <= tolerance**2).float()[None, None]
    flat = masks.flatten(0, 1)[:, None].float()
    near: Tensor = F.conv2d(flat, disc, padding=tolerance) > 0.5
    return near[:, 0].view_as(masks)
