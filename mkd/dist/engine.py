"""How a step runs on its device: precision, memory format, backward and update."""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from mkd.dist.world import World


def autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the precision context of a forward pass: bf16 on a GPU, float32 on a CPU."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()


class Engine:
    """One process, one device: channels-last; bf16 autocast on a GPU, float32 on a CPU.

    Args:
        world: this process's place.
        model: moved to the device here, before an optimizer is made.
        clip: largest gradient norm; None does not clip.
    """

    def __init__(self, world: World, model: nn.Module, clip: float | None) -> None:
        """Move the model."""
        self.world, self.model, self.clip = world, model, clip
        # channels-last: tensor cores want it, and a CPU's convolutions gain 10 to 15 %.
        model.to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the precision context of a forward pass."""
        return autocast(self.world.device)

    def update(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Backward, clip, step; gradients are cleared afterwards."""
        loss.backward()  # type: ignore[no-untyped-call]
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
