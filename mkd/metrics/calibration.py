"""Calibration: how often a pixel's class is right where the network says that it is so sure."""

from typing import Any

import torch
from torch import Tensor

from mkd.labels import IGNORE

BINS = 15  # of equal width over [0,1], as Guo et al. 2017


class Calibration:
    """Counts, confidence and hits of labelled pixels by bins of confidence, max_c p_c.

    Args:
        device: where the sums live; None is the CPU.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        """Start with no pixel."""
        self.sums = torch.zeros(3, BINS, dtype=torch.float64, device=device)  # pixels, confidence, hits

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add pixels.

        Args:
            probabilities: float (B,C,H,W), sums of 1 over C.
            labels: integer (B,H,W), 255 = ignored.
        """
        confidence, guess = probabilities.max(dim=1)
        known = labels != IGNORE
        sure, hits = confidence[known].double(), (guess == labels)[known].double()
        bins = (sure * BINS).long().clamp(0, BINS - 1)
        for row, values in enumerate((torch.ones_like(sure), sure, hits)):
            self.sums[row] += torch.bincount(bins, values, BINS).to(self.sums)

    def ece(self) -> float:
        """Return the expected calibration error; NaN without a pixel.

        ::

            ECE = sum_b n_b / N |accuracy_b - confidence_b|

        Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 5.
        """
        pixels, confidence, hits = self.sums
        return float((hits - confidence).abs().sum() / pixels.sum())

    def to_json(self) -> dict[str, Any]:
        """Return the ECE and the bins that have a pixel, for results.json."""
        rows = []
        for number, (pixels, confidence, hits) in enumerate(self.sums.T.tolist()):
            if pixels:
                ends = {"low": number / BINS, "high": (number + 1) / BINS}
                means = {"confidence": confidence / pixels, "accuracy": hits / pixels}
                rows.append({**ends, "pixels": int(pixels), **means})
        return {"ece": self.ece(), "bins": rows}
