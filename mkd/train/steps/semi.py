"""One semi-supervised step: L = L_sup(labelled) + w_u L_cons(pseudo)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from mkd.distributed.world import World
from mkd.labels import IGNORE
from mkd.loader.augment import StrongView, cutmix, strong_colour
from mkd.loader.batch import to_unit
from mkd.losses.pseudo_label import pseudo_label_loss
from mkd.models.dropout import dropped_features
from mkd.train.batches import FILTERED, StepBatch
from mkd.train.pseudo.exchange import PseudoBatch
from mkd.train.pseudo.feed import PseudoFeed
from mkd.train.steps.supervised import SupervisedLoss


@dataclass
class SemiStep:
    """The paper's semi-supervised objective with an EMA teacher.

    Attributes:
        model: the student.
        pseudo: feed of pseudo-labelled tiles, with its teacher and monitor.
        result: the network whose weights become the model folder: the student, or the teacher's EMA.
        loss_sup: L_sup.
        weight: w_u; the monitor halves it with each rollback. 0 is the control: no unlabelled tile is used.
        average: what L_cons is the mean over: "valid", all pixels inside the tiles, or "kept", those with a label.
        strong_views: of each pseudo-labelled tile.
        feature_dropout: chance of a channel of the backbone's maps to be dropped in one more view of each tile, the
            weak one; 0: there is no such view. L_cons is the mean over all views.
        cutmix: share of the strong views that get a box of another one.
        paste: share of the strong views that then get a box of a labelled tile, with its labels.
        world: the ranks that share a batch.
        strong_view: makes strong views of weak ones, see `mkd.loader.augment.strong_view`; None: of colours.
        net: what forward passes go through: the student, or an engine's wrapper of it.
    """

    model: nn.Module
    pseudo: PseudoFeed
    result: nn.Module
    loss_sup: SupervisedLoss
    weight: float
    average: str = "valid"
    strong_views: int = 1
    feature_dropout: float = 0.0
    cutmix: float = 1.0
    paste: float = 0.0
    world: World = field(default_factory=World.single)
    strong_view: StrongView | None = None

    def __post_init__(self) -> None:
        """Let forward passes go through the student itself."""
        self.net: Callable[[Tensor], Tensor] = self.model

    def train(self) -> None:
        """Put the student into training mode."""
        self.model.train()

    def prepare(self, batch: StepBatch, progress: float) -> StepBatch:
        """Return the batch with strong views of pseudo-labelled tiles, as many as the labelled ones, and their labels.

        With the number of pixels, over all ranks, that L_cons is the mean over. All ranks call this together.

        Raises:
            TeachersGone: a rank's teacher is gone; on all ranks.
        """
        if self.weight == 0:  # the control: labels alone, also in BatchNorm's batch
            return batch
        # Pseudo-labelled tiles; this waits for the teachers of all ranks.
        tiles = self.pseudo(progress)
        # All strong views before any box: the neighbour of the last tile may be another rank's, whose boxes are drawn
        # there alone, and its next view must not depend on that.
        made = self.strong_view or strong_colour
        strong = [made(to_unit(tiles.weak), tiles.generators) for _ in range(self.strong_views)]
        views = [self._mixed(view, tiles, batch) for view in strong]
        if self.feature_dropout > 0:  # the weak view comes last, as it is
            views.append((to_unit(tiles.weak)[: self.pseudo.size], tiles.labels[: self.pseudo.size]))
        mixed, labels = (torch.stack(parts, dim=1) for parts in zip(*views, strict=True))
        outside = labels == IGNORE
        labels = labels.masked_fill(labels == FILTERED, IGNORE)
        counted = ~outside if self.average == "valid" else labels != IGNORE
        count = self.world.all_reduce_sum(counted.sum()).clamp(min=1)  # waits for all ranks
        return replace(batch, strong=mixed, pseudo=labels, pixel_count=count)

    def _mixed(self, strong: Tensor, tiles: PseudoBatch, batch: StepBatch) -> tuple[Tensor, Tensor]:
        """Return a strong view of each of this rank's tiles, with boxes of others, and its labels."""
        size, labels = self.pseudo.size, tiles.labels
        # CutMix with the next tile. With several ranks the one after this rank's own comes last, for its view only.
        others, other_labels = strong.roll(-1, dims=0)[:size], labels.roll(-1, dims=0)[:size]
        draws = tiles.generators[:size]
        mixed, labels = cutmix(strong[:size], labels[:size], others, other_labels, draws, self.cutmix)
        if self.paste > 0:
            own = (self.strong_view or strong_colour)(batch.images, draws)
            mixed, labels = cutmix(mixed, labels, own, batch.labels, draws, self.paste)
        return mixed, labels

    def __call__(self, micro_batch: StepBatch, measure_gradients: bool) -> dict[str, Tensor]:
        """Return this rank's partial losses by name; the monitor reports what the filters kept."""
        if self.weight == 0:
            loss_sup = self.loss_sup(self.net(micro_batch.images), micro_batch.labels, self.world)
            return {"loss": loss_sup, "loss_sup": loss_sup.detach()}
        assert micro_batch.strong is not None
        assert micro_batch.pseudo is not None
        assert micro_batch.pixel_count is not None
        # One forward pass of labelled tiles and views, of all tiles the first view, then the second.
        strong, pseudo = (t.transpose(0, 1).flatten(0, 1) for t in (micro_batch.strong, micro_batch.pseudo))
        images, labels = torch.cat([micro_batch.images, strong]), micro_batch.labels
        with dropped_features(self.model, self.feature_dropout, len(micro_batch.pseudo)):
            z_s = self.net(images)
        # The named losses and their sum.
        loss_sup = self.loss_sup(z_s[: len(labels)], labels, self.world)
        loss_cons = pseudo_label_loss(z_s[len(labels) :], pseudo, count=micro_batch.pixel_count)
        return {
            "loss": loss_sup + self.pseudo.monitor.weight_factor * self.weight * loss_cons,
            "loss_sup": loss_sup.detach(),
            "loss_cons": loss_cons.detach(),
        }

    def after_update(self) -> None:
        """Move the teacher's weights towards the student's by EMA."""
        self.pseudo.teacher.follow(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of teacher, pool and monitor; all ranks call this together."""
        p = self.pseudo
        return {**p.teacher.state_dict(), "pseudo": p.state_dict(), "health": p.monitor.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore teacher, pool and monitor; the pool needs the teacher's state before."""
        self.pseudo.teacher.load_state_dict(state)
        self.pseudo.load_state_dict(state["pseudo"])
        self.pseudo.monitor.load_state_dict(state["health"])
