"""A network for other bands than it was trained on: its input filters are kept, those of new bands are made."""

from dataclasses import replace

import torch
from torch import Tensor

from mkd.models.architecture import Architecture
from mkd.models.build import build
from mkd.models.segmentation import SegmentationNetwork


def with_bands(model: SegmentationNetwork, plan: Architecture) -> SegmentationNetwork:
    """Return a network of other bands that starts from a trained one.

    Bands count from the first: filters of bands that both have stay, those of further bands start as the mean of the
    filters that there were, and those of bands that are gone are dropped.

    Args:
        model: trained; is not changed.
        plan: of which the bands, their range and their normalisation are taken.
    """
    architecture = replace(model.architecture, mean=plan.mean, std=plan.std, scale=plan.scale)
    found = build(architecture, model.num_classes)
    like = found.state_dict()
    state = {name: fit_bands(value, like[name]) for name, value in model.state_dict().items()}
    found.load_state_dict(state)
    return found.train(model.training)


def fit_bands(value: Tensor, like: Tensor, new: Tensor | None = None) -> Tensor:
    """Return filters (O,bands,k,k) with as many bands as ``like``; other tensors as they are.

    Args:
        value: filters or any other tensor.
        like: a tensor of the wanted shape.
        new: filters (O,1,k,k) of further bands; None: the mean of the given ones.
    """
    if value.shape == like.shape or value.ndim != 4:
        return value
    bands = like.shape[1]
    extra = value.mean(dim=1, keepdim=True) if new is None else new
    return torch.cat([value[:, :bands], *[extra] * (bands - value.shape[1])], dim=1)
