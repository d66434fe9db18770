"""Everything that fixes a network but its classes and weights, and which ASPP rates fit a crop."""

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

from mkd.pixel_scale import PLAIN, PixelScale

PSA = ("none", "paper", "published")
DECODERS = ("deeplab", "fpn", "dpt")
Rates = tuple[int, int, int]
MOST_CHANNELS = 16384


@dataclass(frozen=True)
class Architecture:
    """Everything that fixes the network but for its classes and weights.

    Attributes:
        backbone: one of ``mkd.models.backbone.NAMES``, or with the decoders fpn and dpt a name that timm knows.
        decoder: "deeplab" (ASPP and one shallow map), "fpn" (a 1x1 lateral of each level, summed at H/4) or "dpt"
            (the same on four depths of a vision transformer).
        psa: attention before the ASPP: "none", "paper" or "published" (see :mod:`mkd.models.psa`); deeplab only.
        output_stride: stride of the deep features, 8, 16 or 32; deeplab only. HRNet always works at 4.
        neck_kernel: kernel of an HRNet's second convolution before the attention, 1 or 3.
        aspp_stride: stride of the map that an HRNet's ASPP works on, 4 or 8 (its mean over 2 x 2 pixels).
        aspp_channels: channels of the ASPP's branches and result.
        aspp_rates: dilations of the ASPP's branches; None becomes the published ones, see `published_rates`.
        low_channels: channels of the shallow features in the DeepLab decoder.
        lateral_channels: channels of the laterals of fpn and dpt.
        decoder_channels: channels of the decoder's two 3x3 convolutions.
        dropout: chances after the first and the second of these, in [0,1).
        separable: depthwise-separable 3x3 convolutions in ASPP and DeepLab decoder.
        mean: of the images that the weights were trained on, one a band, in units of `scale`: of RGB in [0,1].
        std: of these images, one a band, > 0.
        scale: the images that it takes, and their range.
    """

    backbone: str
    decoder: str = "deeplab"
    psa: str = "none"
    output_stride: int = 16
    neck_kernel: int = 3
    aspp_stride: int = 4
    aspp_channels: int = 256
    aspp_rates: Rates | None = None
    low_channels: int = 48
    lateral_channels: int = 96
    decoder_channels: int = 256
    dropout: tuple[float, float] = (0.5, 0.1)
    separable: bool = False
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    scale: PixelScale = PLAIN

    def __post_init__(self) -> None:
        """Fill in the rates; raise ValueError for values that no network has."""
        if isinstance(self.scale, dict):  # of a file
            object.__setattr__(self, "scale", PixelScale(**self.scale))
        if self.decoder not in DECODERS:
            raise ValueError(f"model.decoder: {self.decoder!r} is not known, use {', '.join(DECODERS)}")
        if self.psa not in PSA:
            raise ValueError(f"model.psa: {self.psa!r} is not known, use none, paper or published")
        if self.output_stride not in (8, 16, 32):
            raise ValueError(f"model.output_stride: {self.output_stride} is not possible, use 8, 16 or 32")
        self._check_hrnet()
        if not re.fullmatch(r"[\w.-]+", self.backbone):  # timm would fetch "hf-hub:..." from the network
            raise ValueError(
                f"model.backbone: {self.backbone!r} is no name of a network, use letters, digits, _ and ."
            )
        for name in ("aspp_channels", "low_channels", "lateral_channels", "decoder_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name}: {getattr(self, name)} is too small, use 1 or more")
            if getattr(self, name) > MOST_CHANNELS:
                raise ValueError(
                    f"model.{name}: {getattr(self, name)} is too large, use {MOST_CHANNELS} or less"
                )
        if len(self.dropout) != 2 or not all(0 <= p < 1 for p in self.dropout):
            raise ValueError(f"model.dropout: {self.dropout} must be two numbers from 0 to below 1")
        bands, finite = self.scale.bands, all(math.isfinite(value) for value in (*self.mean, *self.std))
        if len(self.mean) != bands or len(self.std) != bands or not finite or min(self.std) <= 0:
            raise ValueError(
                f"model.mean {self.mean} and model.std {self.std} must be {bands} finite numbers each, one a band, "
                "std > 0"
            )
        if self.aspp_rates is None:
            object.__setattr__(
                self, "aspp_rates", published_rates(self.backbone, self.output_stride, self.aspp_stride)
            )
        elif len(self.aspp_rates) != 3 or not all(1 <= rate < 2**15 for rate in self.aspp_rates):
            raise ValueError(f"model.aspp_rates: {self.aspp_rates} must be three whole numbers >= 1")

    def _check_hrnet(self) -> None:
        """Check what only an HRNet has a choice of."""
        for name, usual, allowed in (("neck_kernel", 3, (1, 3)), ("aspp_stride", 4, (4, 8))):
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"model.{name}: {value} is not possible, use {allowed[0]} or {allowed[1]}")
            if value != usual and not (self.on_hrnet and self.decoder == "deeplab"):
                raise ValueError(
                    f"model.{name}: {value} is for an HRNet with model.decoder=deeplab, not for {self.backbone} with "
                    f"{self.decoder}; leave it out"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return all fields; newer ones only where they are not the value that networks had before there was a field.

        So folders and messages of these networks stay as earlier versions wrote and sent them.
        """
        fields = asdict(self)
        if self.scale.plain:
            del fields["scale"]
        for name, before in (("neck_kernel", 3), ("aspp_stride", 4)):
            if fields[name] == before:
                del fields[name]
        return fields

    @property
    def on_hrnet(self) -> bool:
        """Whether the backbone is an HRNet."""
        return self.backbone.startswith("hrnet")

    @property
    def map_stride(self) -> int:
        """Stride of the map that the ASPP works on."""
        return self.aspp_stride if self.on_hrnet else self.output_stride


def published_rates(backbone: str, output_stride: int, aspp_stride: int = 4) -> Rates:
    """Return 6, 12, 18 on HRNet and at output stride 16, doubled at 8 and halved at 32.

    On HRNet halved where its ASPP works at stride 8: as many pixels of the image.

    Source: Chen et al. 2018 (DeepLabV3+), section 3.
    """
    rate = 24 // aspp_stride if backbone.startswith("hrnet") else 96 // output_stride
    return rate, 2 * rate, 3 * rate


def map_side(crop: int, stride: int) -> int:
    """Return the side of the ASPP's map for a square crop, both in pixels; crops are padded to a multiple of 32."""
    return max(2, math.ceil(crop / 32)) * 32 // stride


def fitting_rates(rates: Rates, side: int) -> Rates:
    """Return rates whose outer taps all meet features of a map of this side; the given ones where they do.

    A tap that is ``rate`` pixels off reaches a feature from some pixel of the map when rate < side. One that never
    does has a gradient of exactly 0, keeps its random start, and adds noise to every larger image.

    Args:
        rates: wanted.
        side: of the map in training, pixels, >= 2.
    """
    if max(rates) < side:
        return rates
    third = (side - 1) / 3
    return max(1, round(third)), max(1, round(2 * third)), side - 1
