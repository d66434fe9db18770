"""A light decoder that uses every level of any timm backbone: 1x1 laterals, summed at H/4, two 3x3 convolutions."""

from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mkd.models.architecture import Architecture
from mkd.models.aspp import conv_bn_relu
from mkd.models.dropout import SampleDropout
from mkd.models.segmentation import SegmentationNetwork

STRIDES = (4, 8, 16, 32)
DEPTHS = 4  # blocks of a vision transformer whose tokens are used, evenly spaced, the last one included


class Pyramid(nn.Module):
    """A timm network of stages: maps (B,C_k,H/s,W/s) at the strides 4, 8, 16 and 32.

    Args:
        name: a timm name; `features_only` must give NCHW maps at these strides.
        bands: of the images.

    Attributes:
        body: the timm network with timm's own parameter names, without its ImageNet head.
        channels: of each map.
        divisor: what H and W must be multiples of.

    Raises:
        ValueError: timm does not know the name, or the network has no such maps.
    """

    body: Any
    channels: list[int]
    divisor: int = 32

    def __init__(self, name: str, bands: int = 3) -> None:
        super().__init__()
        try:
            with torch.device("meta"):
                probe: Any = timm.create_model(name, features_only=True)
                sides = [tuple(m.shape[2:]) for m in probe(torch.empty(1, 3, 64, 64))]
            levels = [max(i for i, side in enumerate(sides) if side == (64 // s,) * 2) for s in STRIDES]
        except Exception as error:  # timm raises what its networks like: RuntimeError, AttributeError, ...
            raise ValueError(
                f"model.backbone: {name!r} gives no maps at the strides 4, 8, 16 and 32 ({error}); use a timm network "
                "with features_only, such as convnext_tiny, or a vit_* with model.decoder=dpt"
            ) from None
        body: Any = timm.create_model(name, features_only=True, out_indices=levels, in_chans=bands)
        self.body, self.channels = body, list(body.feature_info.channels())

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the maps of normalised images (B,3,H,W), fine ones first."""
        maps: list[Tensor] = self.body(x)
        return maps


class Transformer(nn.Module):
    """A vision transformer of timm: the tokens of four depths as maps at the strides 4, 8, 16 and 32 of 16.

    DPT's reassembling: each depth is projected to the width of its level and resampled by 4, 2, 1 and 1/2.

    Args:
        name: a timm name, such as vit_small_patch14_dinov2 or vit_small_patch16_dinov3.
        bands: of the images.

    Attributes:
        body: as in `Pyramid`.
        channels: of each map.
        divisor: side of a patch.

    Raises:
        ValueError: timm does not know the name, or it is no vision transformer.

    Source: Ranftl et al. 2021, "Vision Transformers for Dense Prediction", section 3.
    """

    body: Any
    channels: list[int]
    divisor: int

    def __init__(self, name: str, bands: int = 3) -> None:
        super().__init__()
        try:
            # Any size of image: the position embedding is resampled to it.
            body: Any = timm.create_model(name, num_classes=0, dynamic_img_size=True, in_chans=bands)
            depth, width = len(body.blocks), int(body.embed_dim)
            self.body, self.divisor = body, int(body.patch_embed.patch_size[0])
        except Exception as error:
            raise ValueError(
                f"model.backbone: {name!r} is no vision transformer for model.decoder=dpt ({error}); use one such as "
                "vit_small_patch14_dinov2, or model.decoder=fpn for networks of stages"
            ) from None
        self.depths = [depth * (k + 1) // DEPTHS - 1 for k in range(DEPTHS)]
        self.channels = [max(32, width // 4), max(32, width // 2), width, width]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the tokens of four depths as maps (B,width,H/patch,W/patch) of normalised images."""
        maps: list[Tensor] = self.body.forward_intermediates(
            x, indices=self.depths, norm=True, intermediates_only=True, output_fmt="NCHW"
        )
        return maps


class FPN(SegmentationNetwork):
    r"""Segmentation network: backbone, laterals, decoder, classifier.

    .. math::
        d = \sum_k \mathrm{up}(W_k m_k), \qquad z = \mathrm{up}(W\,\mathrm{decoder}(d))

    The maps m_k have the strides 4 to 32; W_k are 1x1 convolutions with BatchNorm; the decoder is a 3x3 convolution and
    one of dilation 2, at H/4. Without image pooling, larger images than those of the training look the same to it.

    Args:
        architecture: its decoder is "fpn" or "dpt".
        num_classes: C, at least 2.

    Source: the laterals of Lin et al. 2017 (FPN), summed as in Kirillov et al. 2019 (Panoptic FPN).
    """

    def __init__(self, architecture: Architecture, num_classes: int) -> None:
        super().__init__(architecture, num_classes)
        a = architecture
        if a.psa != "none":
            raise ValueError(f"model.psa: {a.psa!r} needs model.decoder=deeplab; with {a.decoder} use none")
        self.backbone: Pyramid | Transformer
        self.reassemble: nn.Module = nn.Identity()
        if a.decoder == "dpt":
            self.backbone = Transformer(a.backbone, a.scale.bands)
            self.reassemble = _Reassemble(int(self.backbone.body.embed_dim), self.backbone.channels)
        else:
            self.backbone = Pyramid(a.backbone, a.scale.bands)
        self.divisor = self.backbone.divisor
        self.laterals = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, a.lateral_channels, 1, bias=False), nn.BatchNorm2d(a.lateral_channels)
            )
            for channels in self.backbone.channels
        )
        self.decoder = nn.Sequential(
            conv_bn_relu(a.lateral_channels, a.decoder_channels, 3),
            SampleDropout(a.dropout[0]),
            conv_bn_relu(a.decoder_channels, a.decoder_channels, 3, dilation=2),
            SampleDropout(a.dropout[1]),
        )
        self.classifier = nn.Conv2d(a.decoder_channels, num_classes, 1)

    def _decode(self, padded: Tensor) -> Tensor:
        maps = self.feature_dropout(self.reassemble(self.backbone((padded - self.mean) / self.std)))
        height, width = (-(-side // 4) for side in padded.shape[2:])
        summed: Tensor | None = None
        for lateral, found in zip(self.laterals, maps, strict=True):
            term = lateral(
                found
            )  # before it is enlarged: a 1x1 convolution and an interpolation can change places
            if term.shape[2:] != (height, width):
                term = F.interpolate(term, size=(height, width), mode="bilinear", align_corners=False)
            summed = term if summed is None else summed + term
        return cast(Tensor, self.decoder(summed))


class _Reassemble(nn.Module):
    """Token maps of four depths -> maps of four widths, resampled by 4, 2, 1 and 1/2."""

    def __init__(self, width: int, channels: list[int]) -> None:
        super().__init__()
        a, b, c, d = channels
        self.steps = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(width, a, 1), nn.ConvTranspose2d(a, a, 4, stride=4)),
                nn.Sequential(nn.Conv2d(width, b, 1), nn.ConvTranspose2d(b, b, 2, stride=2)),
                nn.Conv2d(width, c, 1),
                nn.Sequential(nn.Conv2d(width, d, 1), nn.Conv2d(d, d, 3, stride=2, padding=1)),
            ]
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [step(found) for step, found in zip(self.steps, maps, strict=True)]
