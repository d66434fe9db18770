"""The short probe: a brief stage 1 on a candidate, then a linear classifier for the target on the frozen network."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mkd.config.load import parse
from mkd.config.schema import DomainsRun, ModelConfig, SupervisedRun
from mkd.dataset.index import DatasetIndex
from mkd.labels import IGNORE
from mkd.loader.batch import to_unit
from mkd.loader.loader import TileSet
from mkd.metrics.bootstrap import percentile_interval
from mkd.metrics.confusion import ConfusionMatrix, class_iou
from mkd.model_folder import load_model, read_card
from mkd.models.segmentation import SegmentationNetwork
from mkd.recipes.supervised import supervised
from mkd.transferability.linear_probe import fit_linear
from mkd.transferability.logme import logme

CROP = 256  # pixels: side of the crops of a probe, smaller where the candidate's tiles are
PIXELS = 8000  # labelled pixels of the first half that classifier and LogME see, spread over its tiles


@dataclass(frozen=True)
class Probe:
    """A network seen by the target: confusion matrices (T,C,C) of the scored tiles, and LogME of the fitted pixels."""

    matrices: NDArray[np.int64]
    logme: float

    @property
    def miou(self) -> float:
        """The mean IoU over all scored tiles."""
        return float(class_iou(torch.from_numpy(self.matrices.sum(axis=0))).nanmean())

    def resampled(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the mean IoU of bootstrap samples, whose counts (draws,T) say how often each tile is in them."""
        summed = np.einsum("dt,tij->dij", counts, self.matrices)
        return class_iou(torch.from_numpy(summed)).nanmean(dim=1).numpy()


def gain_interval(probe: Probe, control: Probe, counts: NDArray[np.int64]) -> tuple[float, float]:
    """Return the interval of a probe's mIoU less the control's, both on the same bootstrap samples."""
    return percentile_interval(probe.resampled(counts) - control.resampled(counts))


def train_probe(config: DomainsRun, path: str, index: DatasetIndex, folder: Path) -> SegmentationNetwork:
    """Fine-tune from the source on a candidate for a few steps; a run that has ended there is reused.

    Args:
        config: of the command.
        path: the candidate.
        index: of the candidate.
        folder: run folder.
    """
    run = parse(SupervisedRun, "supervised", ["model=lite0", "out=-", "data.labelled=-"])
    run.out, run.data.labelled, run.data.batch = str(folder), path, config.batch
    run.data.crop, run.data.max_pixels = max(32, min(CROP, *index.largest)), config.max_pixels
    run.steps, run.seed, run.device = config.probe_steps, config.seed, config.device
    if config.source is not None:
        plan = read_card(config.source).architecture.to_dict()
        plan.pop("scale", None)
        plan["aspp_rates"] = None  # those of the source, whatever the crop
        run.student_init, run.model = config.source, ModelConfig(**plan)
    model, _ = load_model(supervised(run) / "model")
    return model


@torch.inference_mode()
def probe_target(
    network: SegmentationNetwork,
    tiles: TileSet,
    fitted: list[int],
    scored: list[int],
    seed: int,
    device: torch.device,
) -> Probe:
    """Fit a linear classifier on some tiles' pixels, and count its hits and errors on others.

    Args:
        network: its `pixel_features` are those of every 4th row and column.
        tiles: the target, labelled.
        fitted: numbers of the tiles that the classifier sees.
        scored: numbers of the tiles that it is judged on, at full size.
        seed: of the pixels that are drawn.
        device: where to compute.

    Raises:
        ValueError: too few labelled pixels or classes among the fitted tiles.
    """
    network.to(device).eval()
    features, labels = [], []
    for sample in fitted:
        image, truth = _tile(network, tiles, sample, device)
        found = network.pixel_features(image)[0].flatten(1).T.cpu().double().numpy()
        height, width = truth.shape
        rows, cols = (torch.arange(2, side + 2, 4).clamp(max=side - 1) for side in (height, width))
        there = truth.cpu()[rows][:, cols].flatten().numpy()
        known = np.flatnonzero(there != IGNORE)
        drawn = np.random.default_rng([seed, sample]).permutation(known)[: max(1, PIXELS // len(fitted))]
        features.append(found[drawn])
        labels.append(there[drawn].astype(np.int64))
    x, y = np.concatenate(features), np.concatenate(labels)
    try:
        score, linear = logme(x, y), fit_linear(x, y, tiles.index.num_classes)
    except ValueError as error:
        raise ValueError(f"target={tiles.folder}: {error}") from None
    weight, bias = (torch.from_numpy(t).float().to(device) for t in linear)
    matrices = [_count(network, tiles, sample, weight, bias, device) for sample in scored]
    return Probe(np.stack(matrices), score)


def _count(
    network: SegmentationNetwork,
    tiles: TileSet,
    sample: int,
    weight: Tensor,
    bias: Tensor,
    device: torch.device,
) -> NDArray[np.int64]:
    """Return the confusion matrix (C,C) of one tile."""
    image, truth = _tile(network, tiles, sample, device)
    logits = F.conv2d(network.pixel_features(image), weight[:, :, None, None], bias)
    logits = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
    matrix = ConfusionMatrix(len(weight))
    guess = logits.argmax(dim=1)[:, : truth.shape[0], : truth.shape[1]]
    matrix.update(guess.cpu(), truth.cpu()[None])
    return matrix.matrix.numpy()


def _tile(
    network: SegmentationNetwork, tiles: TileSet, sample: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return image (1,bands,H,W) and labels (H,W) of a tile; missing pixels are ignored."""
    item = tiles.tile((0, sample)).to(device)
    labels = item.labels if item.valid is None else item.labels.masked_fill(item.valid == 0, IGNORE)
    return to_unit(item.pixels(network.architecture.scale)), labels[0]
