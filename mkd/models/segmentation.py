"""What all segmentation networks share: images in, logits out, a classifier that can be replaced."""

from abc import ABC, abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mkd.models.architecture import Architecture
from mkd.models.dropout import FeatureDropout


class SegmentationNetwork(nn.Module, ABC):
    """Backbone, head, classifier; a subclass gives `_decode`.

    Args:
        architecture: see :class:`Architecture`.
        num_classes: C, at least 2.

    Attributes:
        backbone: the only part that ImageNet weights exist for.
        classifier: the last 1x1 convolution, decoder_channels -> C.
        divisor: what H and W are padded to a multiple of.
        feature_dropout: acts on the backbone's maps where the semi-supervised stage asks for it.
    """

    mean: Tensor
    std: Tensor
    backbone: Any  # a module with `body`, timm's network
    classifier: nn.Conv2d
    divisor: int

    def __init__(self, architecture: Architecture, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"model: {num_classes} classes make no segmentation, use 2 or more")
        self.architecture, self.num_classes = architecture, num_classes
        self.feature_dropout = FeatureDropout()
        self.register_buffer("mean", torch.tensor(architecture.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(architecture.std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, float32 (B,C,H,W), for images of any H and W.

        Args:
            images: float32 (B,bands,H,W) in units of the architecture's scale, RGB in [0,1]; NaN where a pixel is
                missing, which becomes the mean, 0 after the normalisation, whatever was stored there.
        """
        height, width = images.shape[2:]
        padded = self._pad(images)
        logits = self.classifier(self._decode(padded)).float()
        logits = F.interpolate(logits, size=padded.shape[2:], mode="bilinear", align_corners=False)
        return logits[..., :height, :width]

    def features(self, images: Tensor) -> Tensor:
        """Return what the classifier sees, (B,decoder_channels,ceil(H/4),ceil(W/4)), for images as above."""
        height, width = images.shape[2:]
        return self._decode(self._pad(images))[..., : -(-height // 4), : -(-width // 4)]

    def pooled_features(self, images: Tensor) -> Tensor:
        """Return the deepest map of the backbone, mean over its pixels, (B,channels), for images as above."""
        deepest: Tensor = self.backbone((self._pad(images) - self.mean) / self.std)[-1]
        return deepest.float().mean(dim=(2, 3))

    def pixel_features(self, images: Tensor) -> Tensor:
        """Return all that a network knows of a pixel, (B,channels,ceil(H/4),ceil(W/4)), for images as above.

        All maps of the backbone side by side, and what the classifier sees: of an untrained head that is noise, which a
        classifier on top can leave out, so that networks with and without a trained head can be compared.
        """
        height, width = images.shape[2:]
        padded = self._pad(images)
        head = self._decode(padded).float()
        maps = [m.float() for m in self.backbone((padded - self.mean) / self.std)]
        same = [F.interpolate(m, size=head.shape[2:], mode="bilinear", align_corners=False) for m in maps]
        return torch.cat([*same, head], dim=1)[..., : -(-height // 4), : -(-width // 4)]

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
        """Fill missing pixels, and repeat the last row and column up to a multiple of the backbone's divisor.

        At least two multiples, so that BatchNorm sees more than one value even for one small image.
        """
        step = self.divisor
        images = torch.where(images.isnan(), self.mean.to(images.dtype), images)
        height, width = (max(2, -(-side // step)) * step for side in images.shape[2:])
        right, bottom = width - images.shape[3], height - images.shape[2]
        return F.pad(images, (0, right, 0, bottom), mode="replicate") if right or bottom else images

    @abstractmethod
    def _decode(self, padded: Tensor) -> Tensor:
        """Return what the classifier sees, (B,decoder_channels,H/4,W/4), of padded images without NaN."""
