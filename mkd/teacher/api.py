"""What a student asks of a teacher, wherever it runs."""

from typing import Any, Protocol

from torch import Tensor, nn

from mkd.semi.entropy import PseudoLabels


class Teacher(Protocol):
    """Labels weak views and follows the student."""

    def label(self, images: Tensor, progress: float) -> PseudoLabels:
        """Return filtered pseudo-labels.

        Args:
            images: weak views, uint8 (B,3,H,W).
            progress: share of the training done, in [0,1]; the tile filter's schedule follows it.
        """
        ...

    def follow(self, student: nn.Module) -> None:
        """Move the teacher's weights towards the student's by EMA."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold to go on exactly."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        ...
