"""Model + labelled tiles -> one confusion matrix -> results."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mkd.distributed.engine import autocast
from mkd.distributed.world import World
from mkd.inference.windowed import probabilities
from mkd.labels import IGNORE
from mkd.loader.batch import to_unit
from mkd.loader.loader import TileSet, in_order, rank_range
from mkd.metrics.confusion import ConfusionMatrix
from mkd.pixel_scale import PLAIN, PixelScale

Watcher = Callable[[list[int], Tensor, Tensor], None]


@torch.inference_mode()
def confusion(
    model: nn.Module,
    tiles: TileSet,
    batch: int,
    world: World,
    *,
    window: int | None,
    workers: int = 0,
    scale: PixelScale = PLAIN,
    watch: Watcher | None = None,
) -> ConfusionMatrix:
    """Return the confusion matrix over all tiles; the model is left in eval mode.

    Each rank takes its share of the tiles, and the counts are summed: all ranks call this and get the same.

    Args:
        model: images float (B,bands,H,W) in units of `scale` -> logits (B,C,H,W); the same weights on all ranks.
        tiles: labelled tiles.
        batch: tiles a forward pass.
        world: where to compute, bf16 autocast on a GPU; and with whom.
        window: side of the crops that the model was trained on, pixels; larger tiles are predicted in windows of it.
        workers: decoding processes.
        scale: how pixels become the model's input.
        watch: is also given what each forward pass finds: sample numbers (B), probabilities (B,C,H,W), labels (B,H,W).

    Raises:
        ValueError: outputs that are not finite: argmax would call each of these pixels the first class.
    """
    device = world.device
    model.to(device).eval()
    matrix = ConfusionMatrix(tiles.index.num_classes, device=device)
    wrong = torch.zeros((), dtype=torch.int64, device=device)  # pixels; looked at once, at the end
    for item in in_order(tiles, batch, workers, rank_range(len(tiles), world.rank, world.ranks)):
        item = item.to(device)
        known = item.labels if item.valid is None else item.labels.masked_fill(item.valid == 0, IGNORE)
        for slots, images, labels in item.by_size(scale, known):
            with autocast(device):
                found = probabilities(model, to_unit(images), window)
            wrong += (~found.isfinite()).any(dim=1).sum()
            matrix.update(found.argmax(dim=1), labels)
            if watch is not None:
                watch([item.ids[slot][1] for slot in slots], found, labels)
    if bad := int(world.all_reduce_sum(wrong)):  # all ranks end alike
        raise ValueError(
            f"{tiles.folder}: the network's output is not finite at {bad:,} pixels; its weights overflow on these "
            "images: give another model, or train again with a lower optim.lr"
        )
    matrix.matrix = world.all_reduce_sum(matrix.matrix)
    return matrix


def results(matrix: ConfusionMatrix, classes: Sequence[str], provenance: dict[str, Any]) -> dict[str, Any]:
    """Return the content of results.json.

    A class absent from the test labels has IoU null, is listed under ``absent`` and left out of the mean.

    Args:
        matrix: counts over the test tiles.
        classes: names, in class order.
        provenance: what was evaluated on what.
    """
    iou = [None if math.isnan(v) else v for v in matrix.iou().tolist()]
    return {
        "miou": matrix.miou(),
        "iou": dict(zip(classes, iou, strict=True)),
        "absent": [c for c, v in zip(classes, iou, strict=True) if v is None],
        "pixel_accuracy": matrix.pixel_accuracy(),
        "confusion": matrix.matrix.tolist(),
        "provenance": provenance,
    }
