"""What a model costs: parameters, multiply-accumulates at a stated input size."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """What one image costs.

    Attributes:
        parameters: number of weights, running statistics not counted.
        gmac: giga multiply-accumulates (1e9) of one forward pass of one image.
        size: height and width of that image, pixels; a MAC count without it means nothing.
    """

    parameters: int
    gmac: float
    size: int


def parameters(model: nn.Module) -> int:
    """Count the weights of a model; a weight used twice counts once, buffers do not count."""
    return sum(p.numel() for p in model.parameters())


def gmac(model: nn.Module, size: int, channels: int = 3) -> float:
    r"""Count the giga multiply-accumulates of one forward pass, without computing it.

    .. math:: G = 10^{-9} \sum_{\text{conv}} H_o W_o C_o \frac{C_i}{g} k_h k_w
              + 10^{-9} \sum_{\text{matmul}} n\,m\,k

    Convolutions, linear layers and matrix products count; normalisation, activation, pooling and
    interpolation do not. The pass runs in evaluation mode on the meta device (shapes only), so that it takes
    no memory and leaves weights, buffers and mode as they were. Many papers print this number as "FLOPs".

    Args:
        model: takes float32 (1,channels,size,size).
        size: height and width, pixels, > 0.
        channels: input channels.

    Returns:
        Giga multiply-accumulates (half the floating-point operations).

    Raises:
        ValueError: size or channels below 1.

    Source: Jiang et al. 2026, Table 1 (1160.1 and 1262.1 at 1024 x 1024, printed as GFLOPs).
    """
    if size < 1 or channels < 1:
        raise ValueError(f"cost: size {size} and channels {channels} must both be at least 1")
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}
    image = torch.empty(1, channels, size, size, device="meta")
    counter = FlopCounterMode(display=False)
    with _evaluating(model), torch.no_grad(), counter:
        functional_call(model, shapes, (image,))
    return counter.get_total_flops() / 2 / 1e9


def cost(model: nn.Module, size: int, channels: int = 3) -> Cost:
    """Count parameters and multiply-accumulates; arguments as in :func:`gmac`."""
    return Cost(parameters(model), gmac(model, size, channels), size)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every module gets its own mode back, frozen parts included."""
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in training:
            module.training = mode
