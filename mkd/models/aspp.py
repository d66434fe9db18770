"""Atrous spatial pyramid pooling and the convolution blocks of the segmentation head."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_bn_relu(
    channels: int, out_channels: int, kernel: int, *, dilation: int = 1, separable: bool = False
) -> nn.Sequential:
    """Return convolution, BatchNorm, ReLU that keep H and W.

    Args:
        channels: input channels.
        out_channels: output channels.
        kernel: odd kernel size.
        dilation: step between the kernel's taps, pixels.
        separable: split a kernel above 1 into depthwise and 1x1 convolution, each with BatchNorm and ReLU.
    """
    padding = dilation * (kernel // 2)
    if not separable or kernel == 1:
        conv = nn.Conv2d(channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))
    depthwise = nn.Conv2d(
        channels, channels, kernel, padding=padding, dilation=dilation, groups=channels, bias=False
    )
    return nn.Sequential(
        depthwise,
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class PooledBatchNorm(nn.BatchNorm2d):
    """BatchNorm for the image-pooling branch, where one image is one value a channel.

    A batch of one image has no variance. In training mode such a batch is normalised with the running
    statistics, as in evaluation mode, and leaves them unchanged; any larger batch is plain BatchNorm. So the
    parameters, the statistics and the result of every other batch are those of ``nn.BatchNorm2d``, and
    conversion to a BatchNorm synchronised over ranks works as for any BatchNorm.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised x, (B,C,H,W)."""
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(x)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, one dilated 3x3 a rate and the image mean, concatenated, then 1x1.

    Args:
        channels: input channels.
        out_channels: channels of each branch and of the result.
        rates: dilations of the 3x3 branches, pixels.
        separable: depthwise-separable 3x3 branches.
        pool: side of the squares of pixels of x whose means are what all branches see; rates are of these.

    Source: Chen et al. 2018, "Encoder-Decoder with Atrous Separable Convolution" (DeepLabV3+).
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        rates: Sequence[int] = (6, 12, 18),
        separable: bool = False,
        pool: int = 1,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.point = conv_bn_relu(channels, out_channels, 1)
        self.dilated = nn.ModuleList(
            conv_bn_relu(channels, out_channels, 3, dilation=rate, separable=separable) for rate in rates
        )
        self.pooled = nn.Sequential(
            nn.Conv2d(channels, out_channels, 1, bias=False),
            PooledBatchNorm(out_channels),
            nn.ReLU(inplace=True),
        )
        self.project = conv_bn_relu(out_channels * (2 + len(rates)), out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B,out_channels,H/pool,W/pool) for x (B,channels,H,W)."""
        if self.pool > 1:
            x = F.avg_pool2d(x, self.pool)
        mean = self.pooled(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        branches = [self.point(x), *(branch(x) for branch in self.dilated), mean]
        return cast(Tensor, self.project(torch.cat(branches, dim=1)))
