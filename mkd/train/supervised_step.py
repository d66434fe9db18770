"""One supervised step: also tunes a teacher's classifier or head while the rest is frozen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mkd.losses.ohem import ohem_cross_entropy
from mkd.train.views import Views


@dataclass(frozen=True)
class Ohem:
    """Hard-pixel mining: threshold and the least share of the batch's pixels that counts."""

    threshold: float
    min_kept: float

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return L_sup of logits (B,C,H,W) and labels (B,H,W)."""
        return ohem_cross_entropy(logits, labels, self.threshold, int(self.min_kept * labels.numel()))


@dataclass
class SupervisedStep:
    """L = L_sup.

    Attributes:
        model: the network; parameters that require no gradient stay as they are.
        ohem: L_sup.
        frozen: modules kept in eval mode, so that their BatchNorm statistics stay too.
    """

    model: nn.Module
    ohem: Ohem
    frozen: Sequence[nn.Module] = ()

    @property
    def result(self) -> nn.Module:
        """The network whose weights become the model folder."""
        return self.model

    def train(self) -> None:
        """Put the network into training mode, frozen modules into eval mode."""
        self.model.train()
        for module in self.frozen:
            module.eval()

    def __call__(self, views: Views, progress: float, diagnose: bool) -> dict[str, Tensor]:
        """Return the losses by name; ``loss`` is the one to minimise."""
        loss_sup = self.ohem(self.model(views.images), views.labels)
        return {"loss": loss_sup, "loss_sup": loss_sup.detach()}

    def updated(self) -> None:
        """Nothing follows an update."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing beyond the model."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take up."""
