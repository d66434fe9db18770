"""One semi-supervised step: L = L_sup(labelled) + w_u L_cons(pseudo)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mkd.distributed.world import World
from mkd.loader.augment import cutmix, strong_colour
from mkd.losses.pseudo_label import pseudo_label_loss
from mkd.train.batches import StepBatch
from mkd.train.pseudo.feed import PseudoFeed
from mkd.train.steps.supervised import ALONE, Ohem


@dataclass
class SemiStep:
    """The paper's semi-supervised objective with an EMA teacher.

    Attributes:
        model: the student.
        pseudo: unlabelled tiles with pseudo-labels, its teacher, and the monitor of both.
        result: the network whose weights become the model folder: the student, or the teacher's EMA.
        ohem: L_sup.
        weight: w_u; the monitor halves it with each rollback.
        world: the ranks that share a batch.
        net: what forward passes go through: the student, or an engine's wrapper of it.
    """

    model: nn.Module
    pseudo: PseudoFeed
    result: nn.Module
    ohem: Ohem
    weight: float
    world: World = ALONE

    def __post_init__(self) -> None:
        """Let forward passes go through the student itself."""
        self.net: Callable[[Tensor], Tensor] = self.model

    def train(self) -> None:
        """Put the student into training mode."""
        self.model.train()

    def prepare(self, views: StepBatch, progress: float) -> StepBatch:
        """Return the views with strong views of pseudo-labelled tiles, as many as the labelled ones, and their labels.

        With the number of pixels, over all ranks, that L_cons is the mean over.

        Raises:
            TeachersGone: a rank's teacher is gone; on all ranks.
        """
        batch, size = self.pseudo(progress), self.pseudo.size
        strong, labels = strong_colour(batch.weak.float() / 255, batch.generators), batch.labels
        # Several ranks: the tile after this rank's own comes last, and only its view is needed.
        others, other_labels = strong.roll(-1, dims=0)[:size], labels.roll(-1, dims=0)[:size]
        mixed, labels = cutmix(strong[:size], labels[:size], others, other_labels, batch.generators[:size])
        kept = self.world.all_reduce_sum((labels != 255).sum()).clamp(min=1)
        return replace(views, strong=mixed, pseudo=labels, counted=kept)

    def __call__(self, part: StepBatch, diagnose: bool) -> dict[str, Tensor]:
        """Return this rank's shares of the losses by name; the monitor reports what the filters kept."""
        assert part.strong is not None
        assert part.pseudo is not None
        assert part.counted is not None
        z, labelled = self.net(torch.cat([part.images, part.strong])), len(part.images)
        loss_sup = self.ohem(z[:labelled], part.labels, self.world)
        loss_cons = pseudo_label_loss(z[labelled:], part.pseudo, count=part.counted)
        return {
            "loss": loss_sup + self.pseudo.health.weight_factor * self.weight * loss_cons,
            "loss_sup": loss_sup.detach(),
            "loss_cons": loss_cons.detach(),
        }

    def updated(self) -> None:
        """Let the teacher follow."""
        self.pseudo.teacher.follow(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of teacher, pool and monitor; all ranks call this together."""
        p = self.pseudo
        return {**p.teacher.state_dict(), "pseudo": p.state_dict(), "health": p.health.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them up."""
        self.pseudo.teacher.load_state_dict(state)
        self.pseudo.load_state_dict(state["pseudo"])
        self.pseudo.health.load_state_dict(state["health"])
