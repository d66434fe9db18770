"""Architecture -> network, with or without ImageNet weights."""

import logging

import torch

from mkd.models.architecture import Architecture
from mkd.models.backbone import normalisation
from mkd.models.deeplab import DeepLabV3Plus
from mkd.models.fpn import FPN
from mkd.models.pretrained import load_pretrained
from mkd.models.segmentation import SegmentationNetwork

_log = logging.getLogger(__name__)
_NETWORKS: dict[str, type[SegmentationNetwork]] = {"deeplab": DeepLabV3Plus, "fpn": FPN, "dpt": FPN}


def build(
    architecture: Architecture, num_classes: int, pretrained: str | None = None, *, seed: int = 0
) -> SegmentationNetwork:
    """Build the network; the global random state stays untouched.

    Args:
        architecture: see :class:`Architecture`.
        num_classes: C, at least 2.
        pretrained: ImageNet weights for the backbone (see :func:`mkd.models.pretrained.load_pretrained`), or
            None for a random start.
        seed: fixes every random weight.

    Raises:
        ValueError: impossible architecture, or weights that cannot be had or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _NETWORKS[architecture.decoder](architecture, num_classes)
    if pretrained is not None:
        load_pretrained(model.backbone, architecture.backbone, pretrained)
        if architecture.scale.plain:  # of other bands the numbers are the data set's
            _warn_of_normalisation(architecture)
    return model


def _warn_of_normalisation(architecture: Architecture) -> None:
    mean, std = normalisation(architecture.backbone)
    if architecture.mean != mean or architecture.std != std:
        _log.warning(
            "model.mean %s, model.std %s: the ImageNet weights of %s were trained with %s, %s",
            architecture.mean,
            architecture.std,
            architecture.backbone,
            mean,
            std,
        )
