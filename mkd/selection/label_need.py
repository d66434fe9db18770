"""How much a tile's label is needed: the mean entropy of its pixels, weighted by the classes that do worst."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def class_weights(iou: Sequence[float | None]) -> Tensor:
    """Return the weight of each class: what its IoU lacks, with mean 1.

    ::

        w_c = (1 - IoU_c) / mean_k (1 - IoU_k)

    Args:
        iou: of each class, in [0,1]; None or NaN where nothing is known of it, which becomes the mean of the others.

    Returns:
        float32 (C,) with mean 1; all 1 where no class lacks anything or nothing is known.
    """
    known = [1.0 - v for v in iou if v is not None and not math.isnan(v)]
    mean = sum(known) / len(known) if known else 0.0
    if mean <= 0:
        return torch.ones(len(iou))
    lacks = [mean if v is None or math.isnan(v) else 1.0 - v for v in iou]
    return torch.tensor(lacks) / mean


def label_need(
    entropy: Tensor, probabilities: Tensor, weights: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Return the mean over a tile's pixels of the entropy, weighted by the classes that the pixel may be.

    ::

        s = mean_{pixels} h sum_c p_c w_c

    Args:
        entropy: float (B,H,W), normalised to [0,1].
        probabilities: float (B,C,H,W), p.
        weights: float (C,), w, mean 1; all 1 gives the mean entropy.
        valid: bool (B,H,W), pixels that count; None: all.

    Returns:
        float32 (B,); 0 for a tile without a valid pixel.
    """
    weighted = entropy * torch.einsum("bchw,c->bhw", probabilities, weights.to(probabilities))
    if valid is None:
        return weighted.mean(dim=(1, 2))
    return weighted.masked_fill(~valid, 0.0).sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1)
