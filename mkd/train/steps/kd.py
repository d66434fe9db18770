"""One distillation step: L = L_sup + w_kd L_KD + w_ewc L_EWC."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mkd.distributed.world import World
from mkd.losses.distillation import distillation_loss
from mkd.losses.ewc import ewc_penalty
from mkd.train.batches import StepBatch
from mkd.train.steps.supervised import ALONE, Ohem


@dataclass(frozen=True)
class Consolidation:
    """EWC's constants on the training device: anchor theta*, Fisher F, weight w_ewc."""

    anchor: Mapping[str, Tensor]
    fisher: Mapping[str, Tensor]
    weight: float


@dataclass
class KdStep:
    """The paper's KD stage objective.

    Attributes:
        model: the student.
        teacher: frozen, in eval mode.
        ohem: L_sup.
        temperature: T.
        weight: w_kd.
        ewc: EWC's constants; None leaves the term out.
        world: the ranks that share a batch.
        net: what forward passes go through: the student, or an engine's wrapper of it.
    """

    model: nn.Module
    teacher: nn.Module
    ohem: Ohem
    temperature: float
    weight: float
    ewc: Consolidation | None
    world: World = ALONE

    def __post_init__(self) -> None:
        """Let forward passes go through the student itself."""
        self.net: Callable[[Tensor], Tensor] = self.model

    @property
    def result(self) -> nn.Module:
        """The network whose weights become the model folder."""
        return self.model

    def train(self) -> None:
        """Put the student into training mode."""
        self.model.train()

    def prepare(self, views: StepBatch, progress: float) -> StepBatch:
        """Return the views with the number of pixels, over all ranks, that L_KD is the mean over."""
        return replace(views, counted=self.world.all_reduce_sum(_valid(views).sum()).clamp(min=1))

    def __call__(self, part: StepBatch, diagnose: bool) -> dict[str, Tensor]:
        """Return this rank's shares of the losses; with ``diagnose`` also of |grad L_EWC| / |grad L_sup|."""
        assert part.counted is not None
        images = part.images
        if part.weak is not None:  # kd.tiles=all
            images = torch.cat([images, part.weak.float() / 255])
        with torch.no_grad():
            z_t = self.teacher(images)
        z_s = self.net(images)
        loss_sup = self.ohem(z_s[: len(part.images)], part.labels, self.world)
        loss_kd = distillation_loss(z_s, z_t, self.temperature, _valid(part), part.counted)
        loss = loss_sup + self.weight * loss_kd
        losses = {"loss_sup": loss_sup.detach(), "loss_kd": loss_kd.detach()}
        if self.ewc is not None:
            ewc, ranks = self.ewc, self.world.ranks
            loss_ewc = ewc_penalty(self.model.named_parameters(), ewc.anchor, ewc.fisher) / ranks
            loss = loss + ewc.weight * loss_ewc
            losses["loss_ewc"] = loss_ewc.detach()
            if diagnose:
                losses["ewc_ratio"] = ewc.weight * self._norm(loss_ewc) / self._norm(loss_sup) / ranks
        return {"loss": loss, **losses}

    def _norm(self, share: Tensor) -> Tensor:
        """Return the norm of a loss's gradient over the shared parameters and all ranks."""
        assert self.ewc is not None
        params = [p for n, p in self.model.named_parameters() if n in self.ewc.fisher]
        grads = torch.autograd.grad(share, params, retain_graph=True, allow_unused=True)
        squares = [self.world.all_reduce_sum(g.float()).square().sum() for g in grads if g is not None]
        return torch.stack(squares).sum().sqrt()

    def updated(self) -> None:
        """Nothing follows an update."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing beyond the student: teacher, anchor and Fisher never change."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take up."""


def _valid(part: StepBatch) -> Tensor:
    """Return the pixels that count in L_KD, bool: the labelled tiles', then with kd.tiles=all the unlabelled ones'."""
    valid = part.labels != 255
    return valid if part.inside is None else torch.cat([valid, part.inside])
