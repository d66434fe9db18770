"""One distillation step: L = L_sup + w_kd L_KD + w_ewc L_EWC."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mkd.losses.distill import distillation_loss
from mkd.losses.ewc import ewc_penalty
from mkd.train.supervised_step import Ohem
from mkd.train.views import Views


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
    """

    model: nn.Module
    teacher: nn.Module
    ohem: Ohem
    temperature: float
    weight: float
    ewc: Consolidation | None

    @property
    def result(self) -> nn.Module:
        """The network whose weights become the model folder."""
        return self.model

    def train(self) -> None:
        """Put the student into training mode."""
        self.model.train()

    def __call__(self, views: Views, progress: float, diagnose: bool) -> dict[str, Tensor]:
        """Return the losses by name; with ``diagnose`` also ewc_ratio = |grad L_EWC| / |grad L_sup|."""
        images, valid = views.images, views.labels != 255
        if views.weak is not None and views.inside is not None:  # kd.tiles=all
            images = torch.cat([images, views.weak.float() / 255])
            valid = torch.cat([valid, views.inside])
        with torch.no_grad():
            z_t = self.teacher(images)
        z_s = self.model(images)
        loss_sup = self.ohem(z_s[: len(views.images)], views.labels)
        loss_kd = distillation_loss(z_s, z_t, self.temperature, valid)
        loss = loss_sup + self.weight * loss_kd
        losses = {"loss_sup": loss_sup.detach(), "loss_kd": loss_kd.detach()}
        if self.ewc is not None:
            ewc = self.ewc
            loss_ewc = ewc_penalty(self.model.named_parameters(), ewc.anchor, ewc.fisher)
            loss = loss + ewc.weight * loss_ewc
            losses["loss_ewc"] = loss_ewc.detach()
            if diagnose:
                losses["ewc_ratio"] = ewc.weight * self._norm(loss_ewc) / self._norm(loss_sup)
        return {"loss": loss, **losses}

    def _norm(self, loss: Tensor) -> Tensor:
        """Return the norm of a loss's gradient over the shared parameters."""
        assert self.ewc is not None
        params = [p for n, p in self.model.named_parameters() if n in self.ewc.fisher]
        grads = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
        squares = [g.float().square().sum() for g in grads if g is not None]
        return torch.stack(squares).sum().sqrt()

    def updated(self) -> None:
        """Nothing follows an update."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing beyond the student: teacher, anchor and Fisher never change."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take up."""
