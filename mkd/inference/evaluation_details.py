"""What results.json says beyond the IoU: intervals, boundaries, calibration, costly confusions, worst tiles."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mkd.distributed.world import World
from mkd.loader.loader import TileSet
from mkd.metrics.bootstrap import LEVEL, percentile_interval
from mkd.metrics.boundary import TOLERANCE, boundary_counts, boundary_f1
from mkd.metrics.calibration import Calibration
from mkd.metrics.confusion import ConfusionMatrix
from mkd.metrics.confusion_cost import confusion_costs
from mkd.metrics.paired_difference import resampled_iou
from mkd.metrics.temperature import at_temperature

ENOUGH = 10  # sources from which on whole sources are drawn, else tiles
WORST, COSTLY = 6, 5  # tiles and pairs of classes that are listed


class EvaluationDetails:
    """Sums over the tiles that an evaluation sees; `update` is given to `mkd.inference.evaluator.confusion`.

    Args:
        classes: names.
        samples: tiles of the data set.
        device: where the sums live.
        temperature: of the probabilities whose calibration is told, beside that of the network's own.
    """

    def __init__(
        self, classes: Sequence[str], samples: int, device: torch.device, temperature: float = 1.0
    ) -> None:
        """Start with no tile."""
        self.classes, size = tuple(classes), len(classes)
        self.matrices = torch.zeros(samples, size, size, dtype=torch.int64)
        self.boundaries = torch.zeros(size, 4, dtype=torch.int64, device=device)
        self.temperature = temperature
        self.calibration, self.unscaled = Calibration(device), Calibration(device)

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
        self.calibration.update(at_temperature(probabilities, self.temperature), labels)
        self.unscaled.update(probabilities, labels)

    def reduce(self, world: World) -> None:
        """Sum over the ranks; all of them call this."""
        self.matrices = world.all_reduce_sum(self.matrices.to(world.device)).cpu()
        self.boundaries = world.all_reduce_sum(self.boundaries)
        for each in (self.calibration, self.unscaled):
            each.sums = world.all_reduce_sum(each.sums)

    def to_json(self, tiles: TileSet, seed: int = 0) -> dict[str, Any]:
        """Return the further keys of results.json; the seed is that of the bootstrap samples."""
        f1 = boundary_f1(self.boundaries.cpu())
        return {
            "interval": self._intervals(*blocks_of(tiles), seed),
            "boundary_f1": {
                "tolerance": TOLERANCE,
                "mean": _number(float(f1.nanmean())),
                "classes": self._by_class(f1.tolist()),
            },
            "calibration": {
                **self.calibration.to_json(),
                "temperature": self.temperature,
                "ece_unscaled": self.unscaled.ece(),
            },
            "costly_confusions": self._costly(),
            "worst_tiles": worst_tiles(self.matrices, tiles),
        }

    def _by_class(self, values: Sequence[float]) -> dict[str, float | None]:
        return {name: _number(value) for name, value in zip(self.classes, values, strict=True)}

    def _intervals(self, by: str, blocks: NDArray[np.int64], seed: int) -> dict[str, Any]:
        """Return 95 % intervals of the IoU by a block bootstrap."""
        iou = resampled_iou(self.matrices, blocks, seed)
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


def blocks_of(tiles: TileSet) -> tuple[str, NDArray[np.int64]]:
    """Return what a bootstrap draws, "source" or, where these are few, "tile", and the number of each tile's."""
    sources = [str(tiles.meta(n)["source"]) for n in range(len(tiles))]
    if len(set(sources)) < ENOUGH:
        return "tile", np.arange(len(tiles))
    return "source", np.unique(sources, return_inverse=True)[1]


def worst_tiles(matrices: Tensor, tiles: TileSet) -> list[dict[str, Any]]:
    """Return key, number and share of right pixels of the tiles where it is lowest, for results.json.

    Args:
        matrices: (N,C,C) confusion matrix of each tile, of one model or summed over several.
        tiles: the data set.
    """
    pixels = matrices.sum(dim=(1, 2)).double()
    share = matrices.diagonal(dim1=1, dim2=2).sum(dim=1) / pixels
    order = torch.argsort(share.nan_to_num(2.0), stable=True)[:WORST].tolist()
    return [
        {"key": tiles.decoder.source.record(n).key, "sample": n, "pixel_accuracy": float(share[n])}
        for n in order
        if pixels[n] > 0
    ]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
