"""How a step runs on its device and over the ranks: precision, memory format, gradients, update, state."""

import contextlib
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mkd.distributed.activation_checkpointing import checkpoint_blocks
from mkd.distributed.ddp import Ddp, Plain
from mkd.distributed.sync_batchnorm import ENOUGH_TILES, synchronise, training_statistics
from mkd.distributed.world import World

KINDS = ("auto", "plain", "ddp", "zero1", "zero2")


def autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the precision context of a forward pass: bf16 on a GPU that has it, else float32."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if has_bf16(device) else contextlib.nullcontext()


def has_bf16(device: torch.device) -> bool:
    """Whether a GPU computes in bf16; before Ampere (V100, T4, RTX 20xx) it is emulated, slower than float32.

    CPUs count as without: those that have it halve the time of dense 3 x 3 convolutions, and double that of the
    depthwise ones that the small networks are made of.
    """
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


class Engine:
    """One model on one device, alone or together with other ranks; the same calls and the same state for all.

    Channels-last; bf16 autocast with float32 weights on a GPU, float32 on a CPU. With several ranks a model whose
    rank sees fewer than 16 tiles in a forward pass gets BatchNorm synchronised over the ranks.

    Args:
        world: this process's place.
        model: moved to the device and given synchronised BatchNorm in place; all ranks start from rank 0's weights.
        optimizer: SGD or AdamW over the model's parameters that require a gradient.
        kind: ``plain`` (one rank), ``ddp``, ``zero1``, ``zero2`` (DeepSpeed: the optimizer's state, and for zero2
            gradients too, split over the ranks); ``auto`` is plain or ddp. One rank runs plain whatever is asked.
        clip: largest gradient norm over all parameters; None does not clip.
        compiles: let torch.compile make kernels for this model; GPU only.
        rank_batch: tiles of a rank in one forward pass.
        checkpointed: the part of the model whose blocks are computed again in the backward pass; None: none is.

    Attributes:
        net: what forward passes go through.
        optimizer: its param_groups hold the learning rates.
        notes: lines for the journal: what was chosen.

    Raises:
        ValueError: the kind or ``compiles`` cannot be used here.
    """

    net: Callable[..., Tensor]

    def __init__(
        self,
        world: World,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        kind: str = "auto",
        clip: float | None = None,
        compiles: bool = False,
        rank_batch: int = 1,
        checkpointed: nn.Module | None = None,
    ) -> None:
        """Move, wrap and perhaps compile the model."""
        self.world, self.model = world, model
        asked, kind = kind, _kind(kind, world)
        if compiles and world.device.type != "cuda":
            raise ValueError(
                f"compile=true, but this run computes on {world.device}; compile is for GPUs: leave it out"
            )
        if compiles and checkpointed is not None:
            raise ValueError(
                "compile=true and model.checkpointing=true: the compiler does not see into checkpointed blocks; leave "
                "one of them out"
            )
        torch.backends.cudnn.benchmark = True  # crops have one size: the kernels timed once serve all steps
        # channels-last: tensor cores want it, and a CPU's convolutions gain 10 to 15 %.
        model.to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.synchronised = world.ranks > 1 and rank_batch < ENOUGH_TILES
        if world.ranks > 1:
            # All ranks wait for rank 0's weights.
            for t in model.state_dict().values():
                dist.broadcast(t, 0)
        norms = synchronise(model, world.device) if self.synchronised else 0
        blocks = 0 if checkpointed is None else checkpoint_blocks(checkpointed)
        self._core = _core(kind, world, model, optimizer, clip)
        self.optimizer = self._core.optimizer
        self.net = _compiled(self._core.net) if compiles else self._core.net
        self.notes = [self._choice(kind, asked, compiles), *self._about_norms(norms, rank_batch)]
        if blocks:
            self.notes.append(
                f"activation checkpointing: {blocks} blocks are computed again in the backward pass"
            )

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the precision context of a forward pass."""
        return autocast(self.world.device)

    def accumulating(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Return the context of a micro-batch's forward pass and backward; only the last exchanges gradients."""
        return self._core.accumulating(last)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's partial loss; those of all ranks sum to the loss."""
        self._core.backward(loss)

    def update(self) -> None:
        """Clip, step; gradients are cleared, and statistics of unsynchronised BatchNorm become the ranks' mean."""
        self._core.update()
        if self.world.ranks > 1 and not self.synchronised:
            self._mean_statistics()

    def state_dict(self) -> dict[str, Any]:
        """Return model and optimizer as torch's own state dicts, whatever the engine; all ranks call this together."""
        return self._core.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that any engine with any number of ranks has returned; all ranks call this together."""
        self._core.load_state_dict(state)

    @torch.no_grad()
    def _mean_statistics(self) -> None:
        """Give BatchNorm's running statistics the mean over the ranks, which wait for each other here."""
        statistics = training_statistics(self.model)
        if not statistics:
            return
        flat = torch.cat([t.reshape(-1) for t in statistics]) / self.world.ranks
        dist.all_reduce(flat)
        for t, mean in zip(statistics, torch.split(flat, [t.numel() for t in statistics]), strict=True):
            t.copy_(mean.view_as(t))

    def _choice(self, kind: str, asked: str, compiles: bool) -> str:
        """Return the line of the journal that names engine, ranks and precision."""
        device = self.world.device
        precision = "bf16 autocast, float32 weights" if has_bf16(device) else "float32"
        if device.type == "cuda" and not has_bf16(device):
            precision += " (this GPU has no bf16)"
        ranks = "1 rank" if self.world.ranks == 1 else f"{self.world.ranks} ranks"
        instead = "" if asked in ("auto", kind) else f" instead of {asked}, which is for several ranks"
        return (
            f"engine {kind}{instead}: {ranks} on {device.type}, {precision}{', compiled' if compiles else ''}"
        )

    def _about_norms(self, norms: int, rank_batch: int) -> list[str]:
        """Return the line of the journal on BatchNorm; none for one rank."""
        if self.world.ranks == 1:
            return []
        seen = f"{rank_batch} {'tile' if rank_batch == 1 else 'tiles'} of a rank in a forward pass"
        if self.synchronised:
            return [
                f"BatchNorm: {norms} layers synchronised over the ranks ({seen}; from {ENOUGH_TILES} on not)"
            ]
        return [f"BatchNorm: each rank by itself ({seen}); running statistics are the mean over ranks"]


def _compiled(net: nn.Module) -> Callable[..., Tensor]:
    """Return a module whose kernels are made by torch.compile."""
    from torch._functorch import config  # seconds: only where it is needed

    # A step that asks for the norm of a gradient goes backward twice; by default a compiled graph gives up its buffers.
    config.donated_buffer = False
    return cast(Callable[..., Tensor], torch.compile(net))


def _kind(kind: str, world: World) -> str:
    """Return the kind that runs."""
    if kind not in KINDS:
        raise ValueError(f"engine={kind} is not known; choose one of {', '.join(KINDS)}")
    if kind == "plain" and world.ranks > 1:
        raise ValueError(
            f"engine=plain is for one rank, but there are {world.ranks}; use engine=ddp, or --nproc-per-node 1"
        )
    if world.ranks == 1:
        return "plain"
    return "ddp" if kind == "auto" else kind


def _core(
    kind: str, world: World, model: nn.Module, optimizer: torch.optim.Optimizer, clip: float | None
) -> Plain:
    """Make what runs the model; DeepSpeed is imported only where it is chosen: that takes seconds."""
    if kind in ("plain", "ddp"):
        return (Plain if kind == "plain" else Ddp)(world, model, optimizer, clip)
    from mkd.distributed.zero import Zero

    return Zero(world, model, optimizer, clip, stage=int(kind[-1]))
