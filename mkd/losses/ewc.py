"""L_EWC: elastic weight consolidation, the student stays near the weights that hold the source knowledge."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mkd.labels import IGNORE
from mkd.losses.rank_sum import RankSum, one_rank


def fisher_diagonal(
    model: nn.Module,
    samples: Iterable[tuple[Tensor, Tensor]],
    ignore_index: int = IGNORE,
    normalise: bool = True,
    total: RankSum = one_rank,
) -> dict[str, Tensor]:
    """Return the diagonal of the empirical Fisher information.

    ::

        F_i = mean over samples n of ( d log p(y_n | x_n; theta) / d theta_i )^2

    with log p(y_n | x_n) the sum of log p_y over the valid pixels of sample n. The square is taken per sample
    (micro-batch 1), never of a batch's mean. The model runs in eval mode (batch statistics are the source's) and
    is given back in the mode it had. With ``normalise`` each tensor is divided by its mean, so that lambda has
    one meaning for every layer; a tensor whose Fisher is all zero stays zero.

    Args:
        model: maps images (B,3,H,W) to logits (B,C,H,W).
        samples: this rank's pairs of images float (B,3,H,W) and labels int (B,H,W); split into single samples here.
        ignore_index: label of pixels that do not count; a sample without valid pixels is left out of the mean.
        normalise: divide each tensor by its mean.
        total: sums over the ranks, each with its own part of the samples; one rank by default.

    Returns:
        Parameter name -> float32 tensor of the parameter's shape, >= 0; all parameters that require a gradient.

    Raises:
        ValueError: when no sample of any rank has a valid pixel.

    Source: Kirkpatrick et al. 2017, diagonal Fisher; the paper's EWC term.
    """
    # The square of each sample's gradient, in eval mode.
    names, params = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    squares = [torch.zeros_like(p, dtype=torch.float32) for p in params]
    count, modes = 0, [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        for images, labels in samples:
            for image, label in zip(images, labels, strict=True):
                if not bool((label != ignore_index).any()):
                    continue
                logits = model(image[None]).float()
                nll = F.cross_entropy(logits, label[None].long(), ignore_index=ignore_index, reduction="sum")
                grads = torch.autograd.grad(nll, params, allow_unused=True)
                for square, g in zip(squares, grads, strict=True):
                    if g is not None:
                        square += g.float() ** 2
                count += 1
    finally:
        for module, training in modes:
            module.training = training
    # The mean over the samples of all ranks, which wait for each other.
    count = int(total(torch.tensor(count, device=params[0].device)))
    if count == 0:
        raise ValueError("EWC's Fisher needs at least one labelled tile with a valid pixel; found none")
    fisher = {n: total(square) / count for n, square in zip(names, squares, strict=True)}
    return {n: _unit_mean(f) for n, f in fisher.items()} if normalise else fisher


def _unit_mean(f: Tensor) -> Tensor:
    """Return a tensor divided by its mean; as it is where that is 0."""
    mean = f.double().mean()
    return (f / mean).float() if mean > 0 else f


def stable_fisher(
    fisher: Mapping[str, Tensor], lr: Mapping[str, float], momentum: float, weight: float
) -> tuple[dict[str, Tensor], float]:
    """Cap each F_i so that SGD with momentum cannot diverge on the penalty.

    The penalty's curvature is w F_i, and heavy-ball descent diverges beyond 2 (1 + m) / lr. Normalised Fishers
    have a long tail, and a single entry above the limit blows a run up, so with half the limit as margin::

        F_i <- min(F_i, (1 + m) / (lr w))

    Args:
        fisher: name -> F >= 0.
        lr: name -> largest learning rate of the parameter, > 0.
        momentum: m in [0,1).
        weight: w_ewc > 0, with lambda = 1.

    Returns:
        The capped Fisher, and the share of entries that were capped.

    Source: stability of the heavy-ball method on a quadratic (Polyak 1964).
    """
    capped = {n: f.clamp(max=(1 + momentum) / (lr[n] * weight)) for n, f in fisher.items()}
    count = sum(int((capped[n] < f).sum()) for n, f in fisher.items())
    return capped, count / max(1, sum(f.numel() for f in fisher.values()))


def ewc_penalty(
    parameters: Iterable[tuple[str, Tensor]],
    anchor: Mapping[str, Tensor],
    fisher: Mapping[str, Tensor],
    strength: float = 1.0,
) -> Tensor:
    """Return the quadratic penalty for leaving the anchor.

    ::

        L_EWC = (lambda / 2) * sum_i F_i (theta_i - theta*_i)^2

    Args:
        parameters: (name, theta) as from ``named_parameters()``; names without a Fisher entry do not count.
        anchor: name -> theta*, the weights that hold the source knowledge.
        fisher: name -> F >= 0, same shapes.
        strength: lambda >= 0.

    Returns:
        Scalar >= 0; 0 when no name is shared.

    Source: Kirkpatrick et al. 2017, equation 3; the paper's L_EWC.
    """
    shared = [(theta, anchor[name], fisher[name]) for name, theta in parameters if name in fisher]
    if not shared:
        return torch.zeros(())
    thetas, anchors, fishers = (list(tensors) for tensors in zip(*shared, strict=True))
    value: Tensor = _Quadratic.apply(anchors, fishers, *thetas)
    return strength * value


class _Quadratic(torch.autograd.Function):
    """1/2 sum_i F_i (theta_i - theta*_i)^2 as one node, over all tensors at once.

    A network has hundreds of small tensors: a node for each of their operations costs more than their arithmetic.
    """

    @staticmethod
    def forward(ctx: Any, anchors: list[Tensor], fishers: list[Tensor], *thetas: Tensor) -> Tensor:
        """Return the scalar, and keep its gradient, F (theta - theta*)."""
        distances = torch._foreach_sub(list(thetas), anchors)
        gradients = torch._foreach_mul(distances, fishers)
        ctx.save_for_backward(*gradients)
        return 0.5 * total_of(torch._foreach_mul(gradients, distances), thetas[0].is_cuda)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        """Return the gradient of each theta."""
        return (None, None, *torch._foreach_mul(list(ctx.saved_tensors), grad))


def total_of(tensors: tuple[Tensor, ...] | list[Tensor], together: bool) -> Tensor:
    """Return the sum of all entries of tensors, all >= 0.

    Args:
        tensors: of any shapes.
        together: by the 1-norm, which on a GPU has a kernel for many tensors; on a CPU it takes three times as long.
    """
    sums = torch._foreach_norm(tensors, 1) if together else [t.sum() for t in tensors]
    return torch.stack(list(sums)).sum()
