"""What each confusion of two classes costs in mIoU."""

import torch
from torch import Tensor

from mkd.metrics.confusion import class_iou


def confusion_costs(matrix: Tensor) -> Tensor:
    """Return float64 (C,C): how much the mIoU would rise were the pixels of a cell predicted right; 0 on the diagonal.

    A pair of frequent classes may share many pixels at little cost; a rare class loses much by few.

    Args:
        matrix: int64 (C,C) counts, rows truth.
    """
    classes = len(matrix)
    truth, guess = torch.meshgrid(torch.arange(classes), torch.arange(classes), indexing="ij")
    cells = torch.arange(classes**2)
    mended = matrix.cpu().repeat(classes**2, 1, 1)
    moved = matrix.cpu().flatten()
    mended[cells, truth.flatten(), guess.flatten()] -= moved
    mended[cells, truth.flatten(), truth.flatten()] += moved
    rise = class_iou(mended).nanmean(dim=1) - class_iou(matrix.cpu()).nanmean()
    return rise.view(classes, classes)
