"""BatchNorm over the tiles of all ranks, as if one process had the whole batch."""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

# A rank that has as many tiles in a forward pass knows mean and variance well enough by itself.
ENOUGH_TILES = 16


def synchronise(model: nn.Module, device: torch.device) -> int:
    """Let each BatchNorm of a model use the statistics of all ranks in training mode; return how many there are.

    The modules stay the same objects with the same parameters and state-dict names, so optimizers, hooks and
    lists of frozen modules stay valid. Every rank must make the same forward passes. A module's children (the
    activation inside timm's BatchNormAct2d) are applied after it in their order, as timm does.

    Args:
        model: changed in place.
        device: a GPU gets torch's SyncBatchNorm, a CPU the one of this file.
    """
    found = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    for module in found:
        module.__class__ = GpuBatchNorm if device.type == "cuda" else CpuBatchNorm
    return len(found)


def training_statistics(model: nn.Module) -> list[Tensor]:
    """Return the floating statistics that a model's training forward passes change."""
    found = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    return [b for m in found for b in m.buffers(recurse=False) if b.is_floating_point()]


class GpuBatchNorm(nn.SyncBatchNorm):
    """torch's SyncBatchNorm over all ranks, then the children."""

    process_group = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised x, (B,C,...)."""
        return _children(self, super().forward(x))


class CpuBatchNorm(_BatchNorm):
    """BatchNorm with the mean and variance of the batches of all ranks together, then the children.

    ::

        y = w (x - mean) / sqrt(var + eps) + b,    mean, var over B and space of all ranks' x

    and the gradient flows through mean and var across the ranks. Ranks may have batches of different sizes.
    In evaluation mode plain BatchNorm.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any (B,C,...)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised x, (B,C,...)."""
        if not (self.training or self.running_mean is None):
            return _children(self, super().forward(x))
        y, mean, var, count = _Normalise.apply(x, self.weight, self.bias, self.eps)
        if self.training and self.running_mean is not None:
            self._follow(mean, var, count)
        return _children(self, cast(Tensor, y))

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        """Move the running statistics; the variance they hold is the unbiased one."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        rate = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.mul_(1 - rate).add_(rate * mean)
        self.running_var.mul_(1 - rate).add_(rate * var * (count / (count - 1)))


class _Normalise(torch.autograd.Function):
    """x -> y of all ranks' batch; each direction exchanges one short vector."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return y, and the mean, biased variance and count over all ranks."""
        axes = [d for d in range(x.dim()) if d != 1]
        var, mean = torch.var_mean(x, axes, correction=0)
        n = mean.new_full((1,), x.numel() // x.shape[1])
        mine = torch.cat([n, mean, var]).double()
        # Each rank waits for the statistics of all others.
        parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, mine)
        counts, means, variances = torch.split(torch.stack(parts), [1, len(mean), len(mean)], dim=1)
        count = counts.sum()
        weight_of_rank = counts / count
        whole = (weight_of_rank * means).sum(0)
        # the law of total variance: within the ranks and between them
        spread = (weight_of_rank * (variances + (means - whole) ** 2)).sum(0)
        mean, var, count = whole.to(x.dtype), spread.to(x.dtype), count.to(x.dtype)
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt(), count)
        ctx.mark_non_differentiable(mean, var, count)
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps), mean, var, count

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """Return the gradients: of x through all ranks' statistics, of weight and bias from this rank's y."""
        x, weight, mean, scale, count = ctx.saved_tensors
        axes, shape = [d for d in range(x.dim()) if d != 1], [1, -1] + [1] * (x.dim() - 2)
        z = (x - mean.view(shape)) * scale.view(shape)
        sums = torch.cat([dy.sum(axes), (dy * z).sum(axes)])
        to_bias, to_weight = sums.clone().chunk(2)
        dist.all_reduce(sums)  # waits for the backward passes of all ranks
        level, slope = (sums / count).chunk(2)
        factor = scale if weight is None else scale * weight
        dx = (dy - level.view(shape) - z * slope.view(shape)) * factor.view(shape)
        if weight is None:
            return dx, None, None, None
        return dx, to_weight, to_bias, None


def _children(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module's children in their order, as timm's BatchNormAct2d does."""
    for child in module.children():
        x = child(x)
    return x
