"""DeepLabV3+ on the backbones of :mod:`mkd.models.backbone`, with polarized self-attention."""

import logging
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mkd.models.aspp import ASPP, conv_bn_relu
from mkd.models.backbone import HRNet, create_backbone, normalisation
from mkd.models.dropout import SampleDropout
from mkd.models.pretrained import load_pretrained
from mkd.models.psa import polarized_pair

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Architecture:
    """Everything that fixes the network but for its classes and weights.

    Attributes:
        backbone: one of ``mkd.models.backbone.NAMES``.
        psa: attention before the ASPP: "none", "paper" or "published" (see :mod:`mkd.models.psa`).
        output_stride: stride of the deep features, 8, 16 or 32; HRNet always works at 4 and ignores it.
        aspp_channels: channels of the ASPP's branches and result.
        low_channels: channels of the shallow features in the decoder.
        decoder_channels: channels of the decoder's two 3x3 convolutions.
        dropout: chances after the first and the second of these, in [0,1).
        separable: depthwise-separable 3x3 convolutions in ASPP and decoder.
        mean: of the images that the weights were trained on, RGB in [0,1].
        std: of these images, RGB, > 0.
    """

    backbone: str
    psa: str = "none"
    output_stride: int = 16
    aspp_channels: int = 256
    low_channels: int = 48
    decoder_channels: int = 256
    dropout: tuple[float, float] = (0.5, 0.1)
    separable: bool = False
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        """Raise ValueError for values that no network has."""
        if self.psa not in ("none", "paper", "published"):
            raise ValueError(f"model.psa: {self.psa!r} is not known, use none, paper or published")
        for name in ("aspp_channels", "low_channels", "decoder_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name}: {getattr(self, name)} is too small, use 1 or more")
        if len(self.dropout) != 2 or not all(0 <= p < 1 for p in self.dropout):
            raise ValueError(f"model.dropout: {self.dropout} must be two numbers from 0 to below 1")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                f"model.mean {self.mean} and model.std {self.std} must be three numbers each, std > 0"
            )


class DeepLabV3Plus(nn.Module):
    r"""Segmentation network: backbone, (neck), (attention), ASPP, decoder, classifier.

    .. math::
        d &= \mathrm{ASPP}(\mathrm{PSA}_s(\mathrm{PSA}_p(\mathrm{neck}(\mathrm{deep})))) \\
        z &= \mathrm{up}\big(W\,\mathrm{decoder}([\mathrm{up}(d), \mathrm{conv}_1(\mathrm{low})])\big)

    The neck (1x1 and 3x3 convolution) exists on HRNet only. The ASPP's rates are 6, 12, 18 on HRNet and at
    output stride 16, doubled at 8 and halved at 32. Weights are random until loaded.

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

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: Architecture, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"model: {num_classes} classes make no segmentation, use 2 or more")
        a = architecture
        self.architecture, self.num_classes = a, num_classes
        self.backbone = create_backbone(a.backbone, a.output_stride)
        deep = self.backbone.channels
        on_hrnet = isinstance(self.backbone, HRNet)
        rate = 6 if on_hrnet else 96 // a.output_stride
        self.neck = _neck(deep) if on_hrnet else nn.Identity()
        self.attention = _attention(deep, a.psa)
        self.aspp = ASPP(deep, a.aspp_channels, (rate, 2 * rate, 3 * rate), a.separable)
        self.low = conv_bn_relu(self.backbone.low_channels, a.low_channels, 1)
        self.decoder = nn.Sequential(
            conv_bn_relu(a.aspp_channels + a.low_channels, a.decoder_channels, 3, separable=a.separable),
            SampleDropout(a.dropout[0]),
            conv_bn_relu(a.decoder_channels, a.decoder_channels, 3, separable=a.separable),
            SampleDropout(a.dropout[1]),
        )
        self.classifier = nn.Conv2d(a.decoder_channels, num_classes, 1)
        self.register_buffer("mean", torch.tensor(a.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(a.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, float32 (B,C,H,W), for RGB images, float32 (B,3,H,W) in [0,1], of any H and W."""
        height, width = images.shape[2:]
        padded = self._pad(images)
        logits = self.classifier(self._decode(padded)).float()
        logits = F.interpolate(logits, size=padded.shape[2:], mode="bilinear", align_corners=False)
        return logits[..., :height, :width]

    def features(self, images: Tensor) -> Tensor:
        """Return what the classifier sees, (B,decoder_channels,ceil(H/4),ceil(W/4)), for images as above."""
        height, width = images.shape[2:]
        return self._decode(self._pad(images))[..., : -(-height // 4), : -(-width // 4)]

    def reset_classifier(self, num_classes: int, generator: torch.Generator) -> None:
        """Replace the classifier by a fresh one, on the same device.

        Args:
            num_classes: C, at least 2.
            generator: CPU generator that the new weights are drawn from; biases start at 0.
        """
        if num_classes < 2:
            raise ValueError(f"model: {num_classes} classes make no segmentation, use 2 or more")
        old = self.classifier.weight
        new = nn.Conv2d(old.shape[1], num_classes, 1, device=old.device, dtype=old.dtype)
        weight = torch.empty(new.weight.shape)
        nn.init.kaiming_uniform_(weight, a=5**0.5, generator=generator)
        with torch.no_grad():
            new.weight.copy_(weight)
            nn.init.zeros_(cast(Tensor, new.bias))
        self.classifier = new
        self.num_classes = num_classes

    def head_modules(self) -> list[nn.Module]:
        """Return the parts that have no pretrained weights: everything but the backbone."""
        return [part for name, part in self.named_children() if name != "backbone"]

    def _pad(self, images: Tensor) -> Tensor:
        """Repeat the last row and column up to a multiple of the backbone's divisor.

        At least two multiples, so that BatchNorm sees more than one value even for one small image.
        """
        step = self.backbone.divisor
        height, width = (max(2, -(-side // step)) * step for side in images.shape[2:])
        right, bottom = width - images.shape[3], height - images.shape[2]
        return F.pad(images, (0, right, 0, bottom), mode="replicate") if right or bottom else images

    def _decode(self, padded: Tensor) -> Tensor:
        low, deep = self.backbone((padded - self.mean) / self.std)
        deep = self.aspp(self.attention(self.neck(deep)))
        if deep.shape[2:] != low.shape[2:]:
            deep = F.interpolate(deep, size=low.shape[2:], mode="bilinear", align_corners=False)
        return cast(Tensor, self.decoder(torch.cat([deep, self.low(low)], dim=1)))


def build(
    architecture: Architecture, num_classes: int, pretrained: str | None = None, *, seed: int = 0
) -> DeepLabV3Plus:
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
        model = DeepLabV3Plus(architecture, num_classes)
    if pretrained is not None:
        load_pretrained(model.backbone, architecture.backbone, pretrained)
        _warn_of_normalisation(architecture)
    return model


def _neck(channels: int) -> nn.Module:
    return nn.Sequential(conv_bn_relu(channels, channels, 1), conv_bn_relu(channels, channels, 3))


def _attention(channels: int, psa: str) -> nn.Module:
    match psa:
        case "paper":
            return polarized_pair(channels, "paper")
        case "published":
            return polarized_pair(channels, "published")
        case _:
            return nn.Identity()


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
