"""What a student asks of a teacher, wherever it runs."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from mkd.semi.entropy import PseudoLabels, TileLimit


@dataclass
class TeacherStats:
    """What a teacher's answers cost and were worth since the start; a reader takes differences.

    Attributes:
        tiles: tiles answered.
        kept: sum over these of the share of pixels that got a label, each in [0,1].
        wait_s: seconds that `collect` waited for another process.
        retries: requests asked again because a teacher died, fell silent, was slow, stopped or was behind.
        stale: answers refused because they were older than ``max_age``, and asked again.
        local: requests that the student's own process answered in a service's place.
        ages: answered requests by age of the weights, in published versions.
        age_steps: the same in student steps (EMA updates).
    """

    tiles: int = 0
    kept: float = 0.0
    wait_s: float = 0.0
    retries: int = 0
    stale: int = 0
    local: int = 0
    ages: Counter[int] = field(default_factory=Counter)
    age_steps: Counter[int] = field(default_factory=Counter)


class Teacher(Protocol):
    """Labels weak views and follows the student.

    Each ticket is submitted once and collected once, in the order of submission. At ``depth`` 0 a batch is
    collected before the next one is submitted; otherwise up to ``depth`` batches are worth keeping submitted.
    """

    @property
    def depth(self) -> int:
        """Candidate batches worth keeping in flight; 0 where nothing is gained by working ahead."""
        ...

    @property
    def stats(self) -> TeacherStats:
        """Counts since the start."""
        ...

    @property
    def model(self) -> nn.Module:
        """The network with the averaged weights, in eval mode; it follows every `follow`."""
        ...

    @property
    def tile_limit(self) -> TileLimit:
        """The tile filter's tau, and what it remembers."""
        ...

    def submit(self, ticket: int, images: Tensor, progress: float) -> None:
        """Ask for labels.

        Args:
            ticket: the asker's number of this batch; not in use now.
            images: weak views, uint8 (B,3,H,W); not changed by anyone until collected.
            progress: share of the training done, in [0,1]; the tile filter's schedule follows it.
        """
        ...

    def collect(self, ticket: int) -> PseudoLabels:
        """Return the filtered pseudo-labels of a submitted batch, on its device; waits for them."""
        ...

    def follow(self, student: nn.Module) -> None:
        """Move the teacher's weights towards the student's by EMA."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold to go on exactly, but for batches not yet collected."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; batches submitted before are forgotten."""
        ...

    def close(self) -> None:
        """Let go of threads and connections; afterwards nothing may be asked."""
        ...


class TeachersGone(ValueError):
    """No teacher answered for ``teacher.patience`` seconds; the run ends after a checkpoint."""


class WaitStopped(TeachersGone):
    """The run was asked to stop while it waited for a teacher; for the step that is as if there were none."""
