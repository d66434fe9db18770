"""Difference of two models' mIoU on the same tiles, with an interval: a bootstrap in which both see the same draws."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mkd.metrics.bootstrap import percentile_interval, resampled_sums
from mkd.metrics.confusion import class_iou


@dataclass(frozen=True)
class PairedDifference:
    """mIoU of a model less that of another, and its 95 % interval, as shares."""

    miou: float
    low: float
    high: float

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out 0; NaN shows nothing."""
        return self.low > 0 or self.high < 0


def resampled_iou(matrices: Tensor, blocks: NDArray[np.int64], seed: int) -> Tensor:
    """Return the IoU of each class in each bootstrap sample, float64 (draws, C); NaN where it is absent there.

    Args:
        matrices: (N,C,C) confusion matrix of each tile.
        blocks: (N,) number of the block of each tile, from 0 on without gaps.
        seed: of the draws.
    """
    size = matrices.shape[-1]
    sums = resampled_sums(matrices.flatten(1).double().numpy(), blocks, seed)
    return class_iou(torch.from_numpy(sums).view(-1, size, size))


def miou_difference(
    model: Tensor, reference: Tensor, blocks: NDArray[np.int64], seed: int = 0
) -> PairedDifference:
    """Return mIoU(model) - mIoU(reference), with the interval of that difference over bootstrap samples of blocks.

    Tiles that are hard for one model are hard for the other: the interval of the difference is narrower than those of
    the two tell.

    Args:
        model: (N,C,C) confusion matrix of each tile.
        reference: the same of the other model, on the same tiles in the same order.
        blocks: (N,) number of the block of each tile, from 0 on without gaps.
        seed: of the draws.
    """
    ours, theirs = (resampled_iou(each, blocks, seed).nanmean(dim=1) for each in (model, reference))
    whole = [float(class_iou(each.sum(dim=0)).nanmean()) for each in (model, reference)]
    low, high = percentile_interval((ours - theirs).numpy())
    return PairedDifference(whole[0] - whole[1], low, high)
