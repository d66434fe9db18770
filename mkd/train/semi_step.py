"""One semi-supervised step: L = L_sup(labelled) + w_u L_cons(pseudo)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mkd.data.augment import cutmix, strong_colour
from mkd.losses.pseudo import pseudo_label_loss
from mkd.train.pseudo_feed import PseudoFeed
from mkd.train.supervised_step import Ohem
from mkd.train.views import Views


@dataclass
class SemiStep:
    """The paper's semi-supervised objective with an EMA teacher.

    Attributes:
        model: the student.
        pseudo: unlabelled tiles with pseudo-labels, its teacher, and the monitor of both.
        result: the network whose weights become the model folder: the student, or the teacher's EMA.
        ohem: L_sup.
        weight: w_u; the monitor halves it with each rollback.
    """

    model: nn.Module
    pseudo: PseudoFeed
    result: nn.Module
    ohem: Ohem
    weight: float

    def train(self) -> None:
        """Put the student into training mode."""
        self.model.train()

    def __call__(self, views: Views, progress: float, diagnose: bool) -> dict[str, Tensor]:
        """Return the losses by name; the monitor reports what the filters kept."""
        batch = self.pseudo(progress)
        strong = strong_colour(batch.weak.float() / 255, batch.draws)
        strong, labels = cutmix(strong, batch.labels, batch.draws)
        z_l, z_u = self.model(torch.cat([views.images, strong])).split([len(views.images), len(strong)])
        loss_sup = self.ohem(z_l, views.labels)
        loss_cons = pseudo_label_loss(z_u, labels)
        return {
            "loss": loss_sup + self.pseudo.health.trust * self.weight * loss_cons,
            "loss_sup": loss_sup.detach(),
            "loss_cons": loss_cons.detach(),
        }

    def updated(self) -> None:
        """Let the teacher follow."""
        self.pseudo.teacher.follow(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of teacher, pool and monitor."""
        p = self.pseudo
        return {**p.teacher.state_dict(), "pseudo": p.state_dict(), "health": p.health.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them up."""
        self.pseudo.teacher.load_state_dict(state)
        self.pseudo.load_state_dict(state["pseudo"])
        self.pseudo.health.load_state_dict(state["health"])
