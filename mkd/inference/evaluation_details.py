"""What results.json says beyond the IoU: intervals, boundaries, calibration, costly confusions, worst tiles."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mkd.distributed.world import World
from mkd.loader.loader import TileSet
from mkd.metrics.bootstrap import LEVEL, percentile_interval, resampled_counts
from mkd.metrics.boundary import TOLERANCE, boundary_counts, boundary_f1
from mkd.metrics.calibration import Calibration
from mkd.metrics.confusion import ConfusionMatrix, class_iou
from mkd.metrics.confusion_cost import confusion_costs

DRAWS, TOGETHER = 1000, 50  # bootstrap samples, and how many are drawn at once
ENOUGH = 10  # sources from which on whole sources are drawn, else tiles
WORST, COSTLY = 6, 5  # tiles and pairs of classes that are listed


class EvaluationDetails:
    """Sums over the tiles that an evaluation sees; `update` is given to `mkd.inference.evaluator.confusion`.

    Args:
        classes: names.
        samples: tiles of the data set.
        device: where the sums live.
    """

    def __init__(self, classes: Sequence[str], samples: int, device: torch.device) -> None:
        """Start with no tile."""
        self.classes, size = tuple(classes), len(classes)
        self.matrices = torch.zeros(samples, size, size, dtype=torch.int64)
        self.boundaries = torch.zeros(size, 4, dtype=torch.int64, device=device)
        self.calibration = Calibration(device)

    def update(self, samples: list[int], probabilities: Tensor, labels: Tensor) -> None:
        """Add tiles of one size.

        Args:
            samples: numbers of B tiles.
            probabilities: float (B,C,H,W).
            labels: uint8 (B,H,W), 255 = ignored.
        """
        guess = probabilities.argmax(dim=1).to(torch.uint8)
        for number, sample in enumerate(samples):
            matrix = ConfusionMatrix(len(self.classes), device=labels.device)
            matrix.update(guess[number : number + 1], labels[number : number + 1])
            self.matrices[sample] = matrix.matrix.cpu()
        self.boundaries += boundary_counts(guess, labels, len(self.classes))
        self.calibration.update(probabilities, labels)

    def reduce(self, world: World) -> None:
        """Sum over the ranks; all of them call this."""
        self.matrices = world.all_reduce_sum(self.matrices.to(world.device)).cpu()
        self.boundaries = world.all_reduce_sum(self.boundaries)
        self.calibration.sums = world.all_reduce_sum(self.calibration.sums)

    def to_json(self, tiles: TileSet, seed: int = 0) -> dict[str, Any]:
        """Return the further keys of results.json; the seed is that of the bootstrap samples."""
        f1 = boundary_f1(self.boundaries.cpu())
        return {
            "interval": self._intervals([str(tiles.meta(n)["source"]) for n in range(len(tiles))], seed),
            "boundary_f1": {
                "tolerance": TOLERANCE,
                "mean": _number(float(f1.nanmean())),
                "classes": self._by_class(f1.tolist()),
            },
            "calibration": self.calibration.to_json(),
            "costly_confusions": self._costly(),
            "worst_tiles": [
                {"key": tiles.decoder.source.record(n).key, "sample": n, "pixel_accuracy": share}
                for n, share in self._worst()
            ],
        }

    def _by_class(self, values: Sequence[float]) -> dict[str, float | None]:
        return {name: _number(value) for name, value in zip(self.classes, values, strict=True)}

    def _intervals(self, sources: list[str], seed: int) -> dict[str, Any]:
        """Return 95 % intervals of the IoU by a block bootstrap over sources, or tiles where there are few sources."""
        number = len(set(sources))
        by = "source" if number >= ENOUGH else "tile"
        members = sources if by == "source" else [str(n) for n in range(len(sources))]
        blocks = np.unique(members, return_inverse=True)[1]
        size, counts = (
            len(self.classes),
            self.matrices.flatten(1).double().numpy(),
        )  # floats: multiplied by BLAS
        # Some draws at a time: one number for each draw and tile takes memory where there are many tiles.
        summed = np.concatenate(
            [
                resampled_counts(blocks, TOGETHER, (seed, part)).astype(np.float64) @ counts
                for part in range(DRAWS // TOGETHER)
            ]
        )
        iou = class_iou(torch.from_numpy(summed).view(DRAWS, size, size))
        spans = [[_number(v) for v in percentile_interval(column.numpy())] for column in iou.T]
        return {
            "level": LEVEL,
            "blocks": by,
            "number": int(blocks.max()) + 1,
            "miou": [_number(v) for v in percentile_interval(iou.nanmean(dim=1).numpy())],
            "iou": dict(zip(self.classes, spans, strict=True)),
        }

    def _costly(self) -> list[dict[str, Any]]:
        """Return the pairs that cost most mIoU."""
        matrix = self.matrices.sum(dim=0)
        costs = confusion_costs(matrix)
        order = torch.argsort(costs.flatten(), descending=True, stable=True)[:COSTLY].tolist()
        pairs = [divmod(cell, len(self.classes)) for cell in order]
        return [
            {
                "truth": self.classes[t],
                "predicted": self.classes[p],
                "pixels": int(matrix[t, p]),
                "miou": float(costs[t, p]),
            }
            for t, p in pairs
            if costs[t, p] > 0
        ]

    def _worst(self) -> list[tuple[int, float]]:
        """Return number and share of right pixels of the tiles where it is lowest."""
        pixels = self.matrices.sum(dim=(1, 2)).double()
        share = self.matrices.diagonal(dim1=1, dim2=2).sum(dim=1) / pixels
        order = torch.argsort(share.nan_to_num(2.0), stable=True)[:WORST].tolist()
        return [(n, float(share[n])) for n in order if pixels[n] > 0]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
