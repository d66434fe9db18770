"""Polarized self-attention: a channel gate and a spatial gate that keep full internal resolution."""

from typing import Literal

import torch
from torch import Tensor, nn

Form = Literal["parallel", "sequential"]
Variant = Literal["paper", "published"]


class PolarizedSelfAttention(nn.Module):
    r"""Polarized self-attention: a gate for each channel and a gate for each pixel of x.

    With n = HW pixels, c = C/2 inner channels and all W 1x1 convolutions:

    .. math::
        A_{ch}(x) &= \sigma\big(W_z (W_v x \cdot \mathrm{softmax}_n(W_q x))\big)
            &\in (B, C, 1, 1) \\
        A_{sp}(x) &= \sigma\big(\mathrm{softmax}_c(\mathrm{mean}_n(W'_q x))^T \cdot W'_v x\big)
            &\in (B, 1, H, W) \\
        \text{parallel}(x) &= A_{ch}(x) x + A_{sp}(x) x \\
        \text{sequential}(x) &= A_{sp}(y)\, y, \quad y = A_{ch}(x) x

    ``variant="published"`` is the spatial gate of the code published with the paper: there the softmax runs
    over the n pixels, of the product in the parallel form and of :math:`W'_v x` in the sequential one. Its
    values are of the order 1/n, so that the gate is 1/2 nearly everywhere. Both variants have the same
    weights and the same multiply-accumulates; W_z is a plain convolution in the parallel form and a
    bottleneck with LayerNorm in the sequential one, as published.

    Args:
        channels: C, even and at least 8.
        form: "parallel" or "sequential".
        variant: "paper" or "published".

    Raises:
        ValueError: an unknown form or variant, or a channel count that cannot be halved.

    Source: Liu et al. 2021, "Polarized Self-Attention", equations 1-4; its published code for W_z.
    """

    def __init__(self, channels: int, form: Form, variant: Variant = "paper") -> None:
        super().__init__()
        if form not in ("parallel", "sequential"):
            raise ValueError(f"psa form {form!r} is not known: use parallel or sequential")
        if variant not in ("paper", "published"):
            raise ValueError(f"psa variant {variant!r} is not known: use paper or published")
        if channels < 8 or channels % 2:
            raise ValueError(f"psa channels {channels} must be even and at least 8")
        inner = channels // 2
        self.form, self.variant = form, variant
        self.channel_query = nn.Conv2d(channels, 1, 1, bias=False)
        self.channel_value = nn.Conv2d(channels, inner, 1, bias=False)
        self.channel_up = (
            _plain_up(inner, channels) if form == "parallel" else _bottleneck_up(inner, channels)
        )
        self.spatial_query = nn.Conv2d(channels, inner, 1, bias=False)
        self.spatial_value = nn.Conv2d(channels, inner, 1, bias=False)
        for conv in (self.channel_query, self.channel_value, self.spatial_query, self.spatial_value):
            nn.init.kaiming_normal_(conv.weight, mode="fan_in")

    def channel_gate(self, x: Tensor) -> Tensor:
        """Return A_ch(x), (B,C,1,1) in (0,1), for x (B,C,H,W)."""
        query = self.channel_query(x).flatten(2).softmax(dim=2)  # (B,1,n)
        value = self.channel_value(x).flatten(2)  # (B,c,n)
        context = torch.matmul(value, query.transpose(1, 2))  # (B,c,1)
        return torch.sigmoid(self.channel_up(context.unsqueeze(-1)))

    def spatial_gate(self, x: Tensor) -> Tensor:
        """Return A_sp(x), (B,1,H,W) in (0,1), for x (B,C,H,W)."""
        # The mean comes after the convolution although it commutes with it: Table 1 counts it so.
        query = self.spatial_query(x).mean(dim=(2, 3)).unsqueeze(1)  # (B,1,c)
        value = self.spatial_value(x).flatten(2)  # (B,c,n)
        if self.variant == "paper":
            score = torch.matmul(query.softmax(dim=2), value)  # (B,1,n)
        elif self.form == "parallel":
            score = torch.matmul(query, value).softmax(dim=2)
        else:
            score = torch.matmul(query, value.softmax(dim=2))
        return torch.sigmoid(score).view(-1, 1, *x.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated x, same shape."""
        if self.form == "parallel":
            return self.channel_gate(x) * x + self.spatial_gate(x) * x
        x = self.channel_gate(x) * x
        return self.spatial_gate(x) * x


def polarized_pair(channels: int, variant: Variant) -> nn.Sequential:
    """Return the parallel form followed by the sequential form, as the network uses them."""
    return nn.Sequential(
        PolarizedSelfAttention(channels, "parallel", variant),
        PolarizedSelfAttention(channels, "sequential", variant),
    )


def _plain_up(inner: int, channels: int) -> nn.Module:
    return nn.Conv2d(inner, channels, 1, bias=False)


def _bottleneck_up(inner: int, channels: int) -> nn.Module:
    narrow = inner // 4
    return nn.Sequential(
        nn.Conv2d(inner, narrow, 1),
        nn.LayerNorm([narrow, 1, 1]),
        nn.ReLU(inplace=True),
        nn.Conv2d(narrow, channels, 1),
    )
