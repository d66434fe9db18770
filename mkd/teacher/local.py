"""The teacher in the student's own process: the reference for every other one."""

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mkd.loader.batch import to_unit
from mkd.models.symmetry import mean_softmax
from mkd.semi.ema import EMA
from mkd.semi.entropy import PseudoLabels, TileLimit, filter_pseudo_labels
from mkd.teacher.api import TeacherStats

Autocast = Callable[[], contextlib.AbstractContextManager[Any]]


class LocalTeacher:
    """EMA weights in a copy of the student, in eval mode on the student's device.

    Args:
        student: the network at the start of the stage; the teacher starts with its weights.
        max_decay: upper bound of the EMA's a.
        confidence: pixel threshold in [0,1].
        tile_limit: the tile filter's tau.
        autocast: precision of the forward pass.
        gather: (B,) of this rank -> (ranks*B,) of all, in rank order; what the tile filter learns from.
        views: symmetries of a weak view whose predictions are averaged, see `logits_of`.

    Attributes:
        depth: 0; an answer is computed when it is collected.
    """

    def __init__(
        self,
        student: nn.Module,
        max_decay: float,
        confidence: float,
        tile_limit: TileLimit,
        autocast: Autocast = contextlib.nullcontext,
        gather: Callable[[Tensor], Tensor] = lambda score: score,
        views: str = "none",
    ) -> None:
        """Copy the student."""
        self.ema = EMA(student, max_decay)
        self.confidence, self.tile_limit, self.autocast = confidence, tile_limit, autocast
        self.model = average_network(student, self.ema)
        self.depth, self.stats, self._gather, self._views = 0, TeacherStats(), gather, views
        self._submitted: dict[int, tuple[Tensor, float]] = {}

    def submit(self, ticket: int, images: Tensor, progress: float) -> None:
        """Remember weak views, uint8 or float32 (B,bands,H,W)."""
        assert ticket not in self._submitted
        self._submitted[ticket] = images, progress

    def collect(self, ticket: int) -> PseudoLabels:
        """Return the filtered pseudo-labels of a submitted batch."""
        images, progress = self._submitted.pop(ticket)
        return self.label(images, progress)

    @torch.no_grad()
    def label(self, images: Tensor, progress: float) -> PseudoLabels:
        """Return filtered pseudo-labels of weak views, uint8 or float32 (B,bands,H,W)."""
        logits = logits_of(self.model, images, self.autocast, self._views)
        limit = self.tile_limit.limit(progress)
        answer = filter_pseudo_labels(logits, self.confidence, limit, self.ema.updates)
        self.tile_limit.observe(self._gather(answer.score))
        return answer

    def follow(self, student: nn.Module) -> None:
        """Update the EMA."""
        self.ema.update(student)

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the tile filter's memory."""
        return {"ema": self.ema.state_dict(), "tile_limit": self.tile_limit.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._submitted.clear()
        self.ema.load_state_dict(state["ema"])
        self.tile_limit.load_state_dict(state["tile_limit"])

    def close(self) -> None:
        """Forget what was submitted."""
        self._submitted.clear()


def average_network(student: nn.Module, ema: EMA) -> nn.Module:
    """Return a copy of the student in eval mode that uses the average's own tensors.

    An EMA update is then at once the network's.
    """
    model = copy.deepcopy(student).eval().requires_grad_(False)
    model.load_state_dict(ema.state, assign=True)
    return model.requires_grad_(False)


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor, autocast: Autocast, views: str = "none") -> Tensor:
    """Return logits float (B,C,H,W) of weak views, see `submit`; what every teacher labels by.

    With views=flips or d4 they are the logarithm of the mean of the softmax over the symmetries of
    `mkd.models.symmetry`, of which softmax is that mean again.
    """
    with autocast():
        if views == "none":
            logits: Tensor = model(to_unit(images))
            return logits
        return mean_softmax(model, to_unit(images), views).log()
