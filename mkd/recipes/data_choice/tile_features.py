"""Features of all tiles of a data set by a network, and how much it needs their labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mkd.config.schemas.model_schema import ModelConfig
from mkd.dataset.index import DatasetIndex
from mkd.distributed.engine import autocast
from mkd.inference.windowed import probabilities
from mkd.loader.batch import to_unit
from mkd.loader.loader import TileSet, in_order
from mkd.models.build import build
from mkd.models.pretrained import BUNDLED
from mkd.models.segmentation import SegmentationNetwork
from mkd.recipes import factories
from mkd.selection.label_need import label_need
from mkd.semi.entropy import normalised_entropy
from mkd.train.input_bands import band_fields

IMAGENET = "tf_efficientnet_lite0"  # the backbone whose ImageNet weights are bundled


@dataclass(frozen=True)
class TileScores:
    """What a network says of each tile: features float64 (N,F); need float64 (N,) in [0, largest class weight]."""

    features: NDArray[np.float64]
    need: NDArray[np.float64]


def imagenet_network(index: DatasetIndex, key: str) -> SegmentationNetwork:
    """Return a network on the bundled ImageNet backbone for a data set's bands; its head is random, and not used.

    Raises:
        ValueError: the weights are not installed, or the data set lacks the statistics of its bands.
    """
    # The network of configs/model/lite0.yaml, which the probes of launch/domains.py train.
    model = ModelConfig(backbone=IMAGENET, decoder="fpn", decoder_channels=128)
    plan = factories.architecture(model, bands=band_fields(index, None, key))
    return build(plan, 2, BUNDLED).eval()


@torch.inference_mode()
def score_tiles(
    network: SegmentationNetwork,
    tiles: TileSet,
    batch: int,
    device: torch.device,
    weights: Tensor | None = None,
    window: int | None = None,
) -> TileScores:
    """Return pooled features of all tiles, and with class weights their `label_need`, else 0.

    Args:
        network: its deepest map, mean over the pixels, is a tile's features.
        tiles: read without their labels.
        batch: tiles in a forward pass.
        device: where to compute.
        weights: float (C,) of the network's classes.
        window: side of the crops that it was trained on, for the need.
    """
    network.to(device).eval()
    features: list[Tensor] = [torch.empty(0)] * len(tiles)
    need = torch.zeros(len(tiles))
    for item in in_order(tiles, batch):
        item = item.to(device)
        for slots, stored, _ in item.by_size(network.architecture.scale):
            images, samples = to_unit(stored), [item.ids[slot][1] for slot in slots]
            with autocast(device):
                pooled = network.pooled_features(images).float().cpu()
                p = None if weights is None else probabilities(network, images, window)
            for sample, row in zip(samples, pooled, strict=True):
                features[sample] = row
            if p is None or weights is None:
                continue
            height, width = images.shape[2:]
            valid = None if item.valid is None else item.valid[slots, :height, :width] != 0
            need[samples] = label_need(normalised_entropy(p.log()), p, weights, valid).cpu()
    return TileScores(torch.stack(features).double().numpy(), need.double().numpy())


@torch.inference_mode()
def pooled_features(
    network: SegmentationNetwork, tiles: TileSet, samples: Sequence[int], device: torch.device
) -> NDArray[np.float64]:
    """Return the pooled features (K,F) of some tiles, in the order given."""
    network.to(device).eval()
    found = []
    for sample in samples:
        item = tiles.tile((0, sample)).to(device)
        with autocast(device):
            found.append(network.pooled_features(to_unit(item.pixels(network.architecture.scale))).cpu())
    return torch.cat(found).double().numpy()
