"""One semi-supervised step: L = L_sup(labelled) + w_u L_cons(pseudo)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mkd.data.augment import cutmix, strong_colour
from mkd.losses.pseudo import pseudo_label_loss
from mkd.teacher.api import Teacher
from mkd.train.supervised_step import Ohem
from mkd.train.views import Views


@dataclass
class SemiStep:
    """The paper's semi-supervised objective with an EMA teacher.

    Attributes:
        model: the student.
        teacher: labels weak views and follows the student.
        result: the network whose weights become the model folder: the student, or the teacher's EMA.
        ohem: L_sup.
        weight: w_u.
    """

    model: nn.Module
    teacher: Teacher
    result: nn.Module
    ohem: Ohem
    weight: float

    def train(self) -> None:
        """Put the student into training mode."""
        self.model.train()

    def __call__(self, views: Views, progress: float, diagnose: bool) -> dict[str, Tensor]:
        """Return the losses by name and the shares that the filters kept."""
        assert views.weak is not None
        assert views.inside is not None
        assert views.draws is not None
        pseudo = self.teacher.label(views.weak, progress)
        labels = pseudo.labels.masked_fill(~views.inside, 255)
        kept_pixels = (labels != 255).float().mean()
        strong = strong_colour(views.weak.float() / 255, views.draws)
        strong, labels = cutmix(strong, labels, views.draws)
        z_l, z_u = self.model(torch.cat([views.images, strong])).split([len(views.images), len(strong)])
        loss_sup = self.ohem(z_l, views.labels)
        loss_cons = pseudo_label_loss(z_u, labels)
        return {
            "loss": loss_sup + self.weight * loss_cons,
            "loss_sup": loss_sup.detach(),
            "loss_cons": loss_cons.detach(),
            "kept_tiles": pseudo.accepted.float().mean(),
            "kept_pixels": kept_pixels,
            "tile_entropy": pseudo.score.mean(),
        }

    def updated(self) -> None:
        """Let the teacher follow."""
        self.teacher.follow(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Return the teacher's state."""
        return self.teacher.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the teacher's state."""
        self.teacher.load_state_dict(state)
