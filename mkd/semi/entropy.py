"""Filters of pseudo-labels: mean entropy accepts tiles, confidence accepts pixels."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mkd.labels import IGNORE


def normalised_entropy(logits: Tensor) -> Tensor:
    """Return each pixel's entropy as a share of the largest possible one.

    ::

        h = - sum_c p_c log p_c / log C,   p = softmax(z)

    Args:
        logits: float (B,C,H,W), C >= 1.

    Returns:
        float32 (B,H,W) in [0,1]; 0 everywhere for C = 1.

    Source: Jiang et al. 2026, "Semi-supervised learning strategy"; divided by log C, so that one limit
    fits any number of classes.
    """
    num_classes = logits.shape[1]
    log_p = F.log_softmax(logits.float(), dim=1)
    p = log_p.exp()
    # p log p -> 0 for p -> 0; a logit of -inf would give 0 * -inf.
    h = -(p * log_p.masked_fill(p == 0, 0.0)).sum(dim=1)
    return (h / math.log(num_classes)).clamp(0, 1) if num_classes > 1 else torch.zeros_like(h)


@dataclass(frozen=True)
class PseudoLabels:
    """Filtered answers of a teacher for one batch of weak views.

    Attributes:
        labels: uint8 (B,H,W), class ids, 255 = dropped, as all of a rejected tile is.
        score: float32 (B,), mean normalised entropy of each tile in [0,1].
        accepted: bool (B,), tiles that passed the tile filter.
        version: number of EMA updates the answering weights had seen.
    """

    labels: Tensor
    score: Tensor
    accepted: Tensor
    version: int


def filter_pseudo_labels(
    logits: Tensor, confidence: float, tile_limit: float, version: int = 0
) -> PseudoLabels:
    """Turn teacher logits into hard labels with 255 where a filter drops them.

    ::

        tile  kept:  mean over pixels of h <= tile_limit
        pixel kept:  max_c p_c >= confidence

    Args:
        logits: float (B,C,H,W).
        confidence: pixel threshold in [0,1].
        tile_limit: tau in [0,1] on the mean normalised entropy of a tile.
        version: carried into the answer.

    Returns:
        PseudoLabels; every pixel of a rejected tile is 255.

    Source: Jiang et al. 2026, "Semi-supervised learning strategy", "retaining only low-entropy
    samples" (tiles); Sohn et al. 2020, FixMatch (pixels).
    """
    top, labels = torch.softmax(logits.float(), dim=1).max(dim=1)
    score = normalised_entropy(logits).mean(dim=(1, 2))
    accepted = score <= tile_limit
    drop = (top < confidence) | ~accepted[:, None, None]
    return PseudoLabels(labels.to(torch.uint8).masked_fill(drop, IGNORE), score, accepted, version)


@dataclass
class TileLimit:
    """tau, the entropy up to which a tile is accepted: a fixed value or a percentile of recent tiles.

    With ``drop_start = d``, ``drop_end = e`` and progress u in [0,1] the share to drop is ``d + (e - d) u``
    and tau is the (1 - share) quantile of the last ``window`` tile scores (U2PL's schedule: 20 % -> 0 %).

    Attributes:
        absolute: tau in [0,1]; None uses the percentile.
        drop_start: share of tiles dropped at the start, in [0,1).
        drop_end: share of tiles dropped at the end, in [0,1).
        window: number of recent scores kept.
    """

    absolute: float | None = None
    drop_start: float = 0.2
    drop_end: float = 0.0
    window: int = 1024
    _scores: deque[float] = field(default_factory=deque, repr=False)

    def limit(self, progress: float) -> float:
        """Return tau at ``progress`` in [0,1]; 1 (accept all) before any score was seen."""
        if self.absolute is not None:
            return self.absolute
        share = self.drop_start + (self.drop_end - self.drop_start) * min(max(progress, 0.0), 1.0)
        if not self._scores or share <= 0:
            return 1.0
        return float(torch.quantile(torch.tensor(list(self._scores), dtype=torch.float64), 1.0 - share))

    def observe(self, score: Tensor) -> None:
        """Remember the tile scores (B,) of one batch; a batch with a NaN (no teacher answered) is left out."""
        scores = score.tolist()
        if any(math.isnan(s) for s in scores):
            return
        self._scores.extend(scores)
        while len(self._scores) > self.window:
            self._scores.popleft()

    def state_dict(self) -> dict[str, Any]:
        """Return the remembered scores."""
        return {"scores": list(self._scores)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._scores = deque(state["scores"])
