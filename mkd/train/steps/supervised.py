"""One supervised step: also tunes a teacher's classifier or head while the rest is frozen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from mkd.distributed.world import World
from mkd.labels import IGNORE
from mkd.losses.ohem import ohem_cross_entropy
from mkd.losses.pseudo_label import pseudo_label_loss
from mkd.losses.rank_sum import one_rank
from mkd.train.batches import StepBatch


@dataclass(frozen=True)
class SupervisedLoss:
    """L_sup: cross-entropy over the hard pixels, or over all.

    Attributes:
        threshold: probability of the true class from which a pixel is easy; None counts all pixels.
        min_kept: least share of the global batch's pixels that counts as hard.
    """

    threshold: float | None
    min_kept: float

    def __call__(self, logits: Tensor, labels: Tensor, world: World) -> Tensor:
        """Return this rank's part of L_sup; all ranks call this together.

        Args:
            logits: float (B,C,H,W); B is the same on all ranks.
            labels: uint8 or int64 (B,H,W), class ids, 255 = ignore.
            world: the ranks that share a batch.

        Returns:
            Scalar >= 0.
        """
        total = world.all_reduce_sum if world.ranks > 1 else one_rank
        if self.threshold is None:
            return pseudo_label_loss(logits, labels, count=total((labels != IGNORE).sum()).clamp(min=1))
        kept = int(self.min_kept * labels.numel() * world.ranks)
        return ohem_cross_entropy(logits, labels, self.threshold, kept, total=total)


class StatelessStep:
    """What steps share that train one network and keep no state beside it.

    Attributes:
        model: the network.
    """

    model: nn.Module

    def __post_init__(self) -> None:
        """Let forward passes go through the network itself, until an engine wraps it."""
        self.net: Callable[[Tensor], Tensor] = self.model

    @property
    def result(self) -> nn.Module:
        """The network whose weights become the model folder."""
        return self.model

    def train(self) -> None:
        """Put the network into training mode."""
        self.model.train()

    def after_update(self) -> None:
        """Do nothing: no weights follow the network's."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing beyond the network."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: there is no state."""


@dataclass
class SupervisedStep(StatelessStep):
    """L = L_sup.

    Attributes:
        model: the network; parameters that require no gradient stay as they are.
        loss_sup: L_sup.
        frozen: modules kept in eval mode, so that their BatchNorm statistics stay too.
        world: the ranks that share a batch.
        net: what forward passes go through: the model, or an engine's wrapper of it.
    """

    model: nn.Module
    loss_sup: SupervisedLoss
    frozen: Sequence[nn.Module] = ()
    world: World = field(default_factory=World.single)

    def train(self) -> None:
        """Put the network into training mode, frozen modules into eval mode."""
        super().train()
        for module in self.frozen:
            module.eval()

    def prepare(self, batch: StepBatch, progress: float) -> StepBatch:
        """Return the batch as it is."""
        return batch

    def __call__(self, micro_batch: StepBatch, measure_gradients: bool) -> dict[str, Tensor]:
        """Return this rank's partial losses by name; ``loss`` is the one to minimise."""
        loss_sup = self.loss_sup(self.net(micro_batch.images), micro_batch.labels, self.world)
        return {"loss": loss_sup, "loss_sup": loss_sup.detach()}
