"""DeepLabV3+ on the backbones of :mod:`mkd.models.backbone`, with polarized self-attention."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mkd.models.architecture import Architecture
from mkd.models.aspp import ASPP, conv_bn_relu
from mkd.models.backbone import HRNet, create_backbone
from mkd.models.dropout import SampleDropout
from mkd.models.psa import polarized_pair
from mkd.models.segmentation import SegmentationNetwork


class DeepLabV3Plus(SegmentationNetwork):
    r"""Segmentation network: backbone, (neck), (attention), ASPP, decoder, classifier.

    .. math::
        d &= \mathrm{ASPP}(\mathrm{PSA}_s(\mathrm{PSA}_p(\mathrm{neck}(\mathrm{deep})))) \\
        z &= \mathrm{up}\big(W\,\mathrm{decoder}([\mathrm{up}(d), \mathrm{conv}_1(\mathrm{low})])\big)

    The neck (1x1 and 3x3 convolution) exists on HRNet only. The light form has 1x1 and 1x1, and the ASPP works on
    means over 2 x 2 pixels. Weights are random until loaded.

    Args:
        architecture: see :class:`Architecture`.
        num_classes: C, at least 2.

    Attributes:
        backbone: the only part that ImageNet weights exist for.
        neck, attention, aspp, low, decoder: the head, with ``nn.Identity`` for absent parts.
        classifier: the last 1x1 convolution, decoder_channels -> C.

    Source: Chen et al. 2018 (DeepLabV3+); for the HRNet form Jiang et al. 2026, "Backbone model selection and
    optimization".
    """

    def __init__(self, architecture: Architecture, num_classes: int) -> None:
        super().__init__(architecture, num_classes)
        a = architecture
        self.backbone = create_backbone(a.backbone, a.output_stride, a.scale.bands)
        deep, self.divisor = self.backbone.channels, self.backbone.divisor
        assert a.aspp_rates is not None
        self.neck = _neck(deep, a.neck_kernel) if isinstance(self.backbone, HRNet) else nn.Identity()
        self.attention = _attention(deep, a.psa)
        self.aspp = ASPP(deep, a.aspp_channels, a.aspp_rates, a.separable, pool=a.aspp_stride // 4)
        self.low = conv_bn_relu(self.backbone.low_channels, a.low_channels, 1)
        self.decoder = nn.Sequential(
            conv_bn_relu(a.aspp_channels + a.low_channels, a.decoder_channels, 3, separable=a.separable),
            SampleDropout(a.dropout[0]),
            conv_bn_relu(a.decoder_channels, a.decoder_channels, 3, separable=a.separable),
            SampleDropout(a.dropout[1]),
        )
        self.classifier = nn.Conv2d(a.decoder_channels, num_classes, 1)

    def _decode(self, padded: Tensor) -> Tensor:
        low, deep = self.feature_dropout(self.backbone((padded - self.mean) / self.std))
        deep = self.aspp(self.attention(self.neck(deep)))
        if deep.shape[2:] != low.shape[2:]:
            deep = F.interpolate(deep, size=low.shape[2:], mode="bilinear", align_corners=False)
        return cast(Tensor, self.decoder(torch.cat([deep, self.low(low)], dim=1)))


def _neck(channels: int, kernel: int) -> nn.Module:
    return nn.Sequential(conv_bn_relu(channels, channels, 1), conv_bn_relu(channels, channels, kernel))


def _attention(channels: int, psa: str) -> nn.Module:
    match psa:
        case "paper":
            return polarized_pair(channels, "paper")
        case "published":
            return polarized_pair(channels, "published")
        case _:
            return nn.Identity()
