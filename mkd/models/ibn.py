"""Instance-batch normalisation (IBN-a): half of the channels per image, half per batch."""

from typing import Any

import torch
from torch import Tensor, nn


class IBN(nn.Module):
    r"""Instance normalisation of the first half of the channels, BatchNorm of the second.

    .. math:: y = [\,\mathrm{IN}(x_{1..C/2}),\ \mathrm{BN}(x_{C/2+1..C})\,]

    Both halves have a learned scale and shift, so that the weight count equals a BatchNorm's. The attribute
    names are those of the published IBN-Net weights.

    Args:
        channels: C, at least 2.

    Source: Pan et al. 2018, "Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net".
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.split = channels // 2
        self.IN = nn.InstanceNorm2d(self.split, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.split)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised x, (B,C,H,W)."""
        first, second = x[:, : self.split], x[:, self.split :]
        return torch.cat([self.IN(first), self.BN(second)], dim=1)


def apply_ibn_a(resnet: nn.Module) -> None:
    """Turn a ResNet into its IBN-a form in place: after the first convolution of each block in layers 1-3.

    The last layer keeps BatchNorm: content, not style, is what the deepest features should carry.

    Args:
        resnet: has ``layer1`` .. ``layer3`` of blocks with ``bn1``; its new norms start fresh.

    Source: Pan et al. 2018, Figure 3 (a).
    """
    for name in ("layer1", "layer2", "layer3"):
        layer: Any = getattr(resnet, name)
        for block in layer:
            block.bn1 = IBN(block.bn1.num_features)
