"""One process alone, or torch's DistributedDataParallel: the engines that need nothing but torch."""

import contextlib
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mkd.distributed.world import World


class Plain:
    """One rank: the model as it is.

    Args:
        world: this process's place.
        model: on its device.
        optimizer: over the model's parameters.
        clip: largest gradient norm over all parameters; None does not clip.
    """

    def __init__(
        self, world: World, model: nn.Module, optimizer: torch.optim.Optimizer, clip: float | None
    ) -> None:
        """Use the model as it is."""
        self.world, self.model, self.optimizer, self.clip = world, model, optimizer, clip
        self.net: nn.Module = model

    def accumulating(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Return the context of one micro-batch."""
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's partial loss."""
        loss.backward()  # type: ignore[no-untyped-call]

    def update(self) -> None:
        """Clip, step; gradients are cleared afterwards."""
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return model and optimizer in torch's own format."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` of any engine returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


class Ddp(Plain):
    """Several ranks, each with the whole model; gradients are exchanged during the backward pass."""

    def __init__(
        self, world: World, model: nn.Module, optimizer: torch.optim.Optimizer, clip: float | None
    ) -> None:
        """Wrap the model; all ranks wait for each other, and compare the shapes of their parameters."""
        super().__init__(world, model, optimizer, clip)
        devices = [world.device] if world.device.type == "cuda" else None
        # Of a 1x1 convolution: channels-last or not, the memory is the same.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        with warnings.catch_warnings():  # torch 2.15 has another name for broadcast_buffers, 2.9 does not
            warnings.simplefilter("ignore", FutureWarning)
            self.ddp = DistributedDataParallel(
                model, devices, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        self.net = self.ddp

    def accumulating(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Return the context of one micro-batch: gradients are exchanged with the last one only."""
        return contextlib.nullcontext() if last else self.ddp.no_sync()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's partial loss; DDP takes the mean over ranks, partial losses want the sum.

        With the last micro-batch each rank waits for the gradients of all others.
        """
        super().backward(loss * self.world.ranks)
