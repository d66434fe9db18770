"""Backbones: timm networks that give one shallow and one deep feature map."""

import difflib
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mkd.models.ibn import apply_ibn_a

NAMES = (
    "hrnet_w48",
    "hrnet_w18_small",
    "resnet101",
    "resnext101_32x8d",
    "resnet101_ibn_a",
    "xception71",
    "tf_efficientnet_lite0",
)


class Backbone(nn.Module):
    """Interface of the backbones: a shallow and a deep feature map.

    ``forward(x)`` takes normalised images (B,3,H,W), H and W multiples of ``divisor``, and returns the
    shallow map (B,low_channels,H/4,W/4) and the deep map (B,channels,H/s,W/s).

    Attributes:
        body: the timm network with timm's own parameter names, without its ImageNet head.
        low_channels: channels of the shallow map.
        channels: channels of the deep map.
        divisor: what H and W must be multiples of.
    """

    body: Any
    low_channels: int
    channels: int
    divisor: int


class HRNet(Backbone):
    """HRNetV2: four branches at strides 4 to 32, upsampled to H/4 and concatenated; shallow map: stage 1.

    Args:
        name: timm name of an HRNet.
        bands: of the images.

    Source: Wang et al. 2020, "Deep High-Resolution Representation Learning for Visual Recognition".
    """

    def __init__(self, name: str, bands: int = 3) -> None:
        super().__init__()
        # An empty feature location leaves out the modules that only the ImageNet head uses.
        self.body = timm.create_model(name, features_only=True, feature_location="", in_chans=bands)
        widths: list[int] = self.body.stage4_cfg["num_channels"]
        self.channels = sum(widths)
        self.low_channels = self.body.layer1[-1].conv3.out_channels
        self.divisor = 32

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shallow and the deep map, both at H/4."""
        body = self.body
        x = body.act1(body.bn1(body.conv1(x)))
        x = body.act2(body.bn2(body.conv2(x)))
        low: Tensor = body.layer1(x)
        branches = body.stage2([step(low) for step in body.transition1])
        branches = body.stage3(_widen(body.transition2, branches))
        branches = body.stage4(_widen(body.transition3, branches))
        size = branches[0].shape[2:]
        same = [F.interpolate(b, size=size, mode="bilinear", align_corners=False) for b in branches[1:]]
        return low, torch.cat([branches[0], *same], dim=1)


class Xception(Backbone):
    """Aligned Xception; shallow map: before the strided convolution of the block that leaves stride 4.

    Args:
        name: timm name of an aligned Xception.
        output_stride: stride of the deep map, 8, 16 or 32.
        bands: of the images.

    Source: Chen et al. 2018, "Encoder-Decoder with Atrous Separable Convolution", section 3.2.
    """

    def __init__(self, name: str, output_stride: int, bands: int = 3) -> None:
        super().__init__()
        self.body = timm.create_model(name, output_stride=output_stride, in_chans=bands)
        self.body.head = nn.Identity()
        _restore_shortcuts(self.body, timm.create_model(name))
        tap = next(info for info in self.body.feature_info if info["reduction"] == 4)
        self.tap = int(tap["module"].split(".")[1])
        self.low_channels = int(tap["num_chs"])
        self.channels = int(self.body.num_features)
        self.divisor = output_stride

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shallow map at H/4 and the deep map."""
        x = self.body.stem(x)
        low = x
        for index, block in enumerate(self.body.blocks):
            if index == self.tap:
                low = block.stack[:-1](x)
                x = block.stack[-1](low) + block.shortcut(x)
            else:
                x = block(x)
        return low, self.body.act(x)


class Staged(Backbone):
    """A network of plain stages (ResNet, EfficientNet); shallow map: the last stage at stride 4.

    Args:
        name: timm name.
        output_stride: stride of the deep map, 8, 16 or 32; later strides become dilations.
        ibn: put instance-batch normalisation into layers 1-3 (ResNets only).
        bands: of the images.
    """

    def __init__(self, name: str, output_stride: int, ibn: bool = False, bands: int = 3) -> None:
        super().__init__()
        self.body = timm.create_model(
            name, features_only=True, out_indices=(1, 4), output_stride=output_stride, in_chans=bands
        )
        if ibn:
            apply_ibn_a(self.body)
        self.low_channels, self.channels = self.body.feature_info.channels()
        self.divisor = output_stride

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shallow map at H/4 and the deep map."""
        low, deep = self.body(x)
        return low, deep


def create_backbone(name: str, output_stride: int, bands: int = 3) -> Backbone:
    """Build a randomly initialised backbone.

    Args:
        name: one of ``NAMES``.
        output_stride: stride of the deep map, 8, 16 or 32; an HRNet has no such choice and ignores it.
        bands: of the images.

    Raises:
        ValueError: another name or stride.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"model.output_stride: {output_stride} is not possible, use 8, 16 or 32")
    match name:
        case "hrnet_w48" | "hrnet_w18_small":
            return HRNet(name, bands)
        case "xception71":
            return Xception(name, output_stride, bands)
        case "resnet101_ibn_a":
            return Staged("resnet101", output_stride, ibn=True, bands=bands)
        case "resnet101" | "resnext101_32x8d" | "tf_efficientnet_lite0":
            return Staged(name, output_stride, bands=bands)
        case _:
            raise ValueError(
                f"model.backbone: {name!r} is not known with model.decoder=deeplab, use one of {', '.join(NAMES)}; "
                "any other network of timm goes with model=fpn, vision transformers with model=dpt"
            )


def _restore_shortcuts(body: Any, reference: Any) -> None:
    """Restore the 1x1 shortcuts of a dilated Xception, which timm leaves out where a stride became 1.

    Without them its weights, trained at stride 32, neither fit nor mean the same.
    """
    for block, trained in zip(body.blocks, reference.blocks, strict=True):
        if block.shortcut is None and trained.shortcut is not None:
            block.shortcut = trained.shortcut
            block.shortcut.conv.stride = (1, 1)


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of the images that timm's weights were trained on.

    Raises:
        ValueError: timm does not know the name.
    """
    cfg = timm.get_pretrained_cfg(name.removesuffix("_ibn_a"))
    if cfg is None:
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else f"use one of {', '.join(NAMES)}, or any of timm's"
        )
        raise ValueError(f"model.backbone: {name!r} is not known; {hint}")
    return tuple(cfg.mean), tuple(cfg.std)


def _widen(transition: Any, branches: list[Tensor]) -> list[Tensor]:
    """Return the branches of the next HRNet stage: the present ones, and a new one made of the last."""
    return [
        branches[i] if isinstance(step, nn.Identity) else step(branches[-1])
        for i, step in enumerate(transition)
    ]
