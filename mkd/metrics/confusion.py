"""IoU and mIoU from ONE confusion matrix summed over all tiles (per-image averages are another number)."""

import torch
from torch import Tensor

from mkd.labels import IGNORE


def class_iou(matrices: Tensor) -> Tensor:
    """Return IoU_c = TP / (TP + FP + FN) of confusion matrices (...,C,C), rows truth, as float64 (...,C).

    NaN for a class that is absent from the labels.
    """
    m = matrices.double()
    true_positive, truth = m.diagonal(dim1=-2, dim2=-1), m.sum(dim=-1)
    iou = true_positive / (truth + m.sum(dim=-2) - true_positive)
    return iou.masked_fill(truth == 0, float("nan"))


class ConfusionMatrix:
    """Counts of (true class, predicted class) over everything it was shown.

    Args:
        num_classes: C >= 1.
        ignore_index: label of pixels that do not count.
        device: where the counts live; None is the CPU.

    Source: Jiang et al. 2026, "Model evaluation metrics"; the definition of Cityscapes and Pascal VOC.
    """

    def __init__(
        self, num_classes: int, ignore_index: int = IGNORE, device: torch.device | None = None
    ) -> None:
        """Start with no counts."""
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Add pixels to the counts.

        Args:
            predictions: integer (B,H,W) class ids in [0, C).
            labels: integer (B,H,W) class ids in [0, C) or ``ignore_index``.

        Raises:
            ValueError: when shapes differ, or a label or prediction is out of range.
        """
        if predictions.shape != labels.shape:
            raise ValueError(
                f"predictions {tuple(predictions.shape)} and labels {tuple(labels.shape)} differ in shape"
            )
        truth, guess = labels.reshape(-1).long(), predictions.reshape(-1).long()
        valid = truth != self.ignore_index
        truth, guess = truth[valid], guess[valid]
        for what, values in (("label", truth), ("prediction", guess)):
            if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < self.num_classes:
                worst = int(values.max()) if int(values.max()) >= self.num_classes else int(values.min())
                raise ValueError(
                    f"{what} {worst} is not in 0..{self.num_classes - 1} nor {self.ignore_index} (ignore): "
                    "the data set's classes are not the model's"
                )
        counts = torch.bincount(truth * self.num_classes + guess, minlength=self.num_classes**2)
        self.matrix += counts.reshape(self.num_classes, self.num_classes).to(self.matrix.device)

    def iou(self) -> Tensor:
        """Return IoU_c = TP / (TP + FP + FN), float64 (C,) in [0,1]; NaN for a class absent from the labels."""
        return class_iou(self.matrix)

    def miou(self) -> float:
        """Return the mean IoU over the classes present in the labels; NaN when no label was seen."""
        return float(self.iou().nanmean())

    def miou_text(self) -> str:
        """Return the mIoU for people, with words where it says nothing: over one class, or none."""
        classes = int((self.matrix.sum(dim=1) > 0).sum())
        if classes < 2:
            return "nan (one class only)" if classes else "nan (no label)"
        return f"{self.miou():.4f}"

    def predicted(self) -> list[int]:
        """Return the classes that any valid pixel was predicted as, in order."""
        found: list[int] = self.matrix.sum(dim=0).nonzero().flatten().tolist()
        return found

    def pixel_accuracy(self) -> float:
        """Return the share of valid pixels predicted right; NaN when no label was seen."""
        return float(self.matrix.diagonal().sum() / self.matrix.sum())
