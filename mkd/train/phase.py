"""What the loop is given: a phase in numbers, and a step to repeat."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from mkd.train.batches import StepBatch


class Step(Protocol):
    """What the loop asks of supervised, KD and semi-supervised steps."""

    model: nn.Module
    net: Callable[[Tensor], Tensor]  # what forward passes go through: the model as the engine runs it

    @property
    def result(self) -> nn.Module:
        """The network that is validated and becomes the model folder."""
        ...

    def train(self) -> None:
        """Set training mode."""
        ...

    def prepare(self, batch: StepBatch, progress: float) -> StepBatch:
        """Return the batch to train on, this rank's whole part of it; all ranks call this together.

        Here, before the forward passes, the ranks find out what must be known of the whole batch: the number of pixels
        that a loss is the mean over.

        Args:
            batch: as read.
            progress: share of the training done, in [0,1].
        """
        ...

    def __call__(self, micro_batch: StepBatch, measure_gradients: bool) -> dict[str, Tensor]:
        """Return this rank's partial losses of a micro-batch, scalars by name; ``loss`` is the one to minimise.

        Summed over the ranks, and averaged over the micro-batches, they are the batch's losses.

        Args:
            micro_batch: of this rank.
            measure_gradients: also compare norms of the losses' gradients, which costs backward passes.
        """
        ...

    def after_update(self) -> None:
        """Called after each optimizer update."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return state beyond the model, equal on all ranks; all call it together."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One call of the loop, in numbers.

    Attributes:
        name: ``teacher``, ``student``, ...: names rows of metrics.jsonl.
        steps: total number of steps.
        steps_an_epoch: for the epoch shown.
        lr: base learning rate.
        power: of the poly schedule.
        seed: of dropout.
        log_every: steps.
        save_every: steps.
        val_every: steps.
        batch: labelled tiles a step over all ranks.
        micro_batches: forward passes that a rank makes of its part of a batch.
        plateau: validations in a row without a rise after which the phase ends; None goes on to the last step.
        validates_start: validate before the first step, so that a phase that does only harm keeps its start.
        fixed_files: files that a checkpoint does not hold and that must not change: name -> SHA-256.
    """

    name: str
    steps: int
    steps_an_epoch: float
    lr: float
    power: float
    seed: int
    log_every: int
    save_every: int
    val_every: int
    batch: int
    micro_batches: int = 1
    plateau: int | None = None
    validates_start: bool = False
    fixed_files: Mapping[str, str] = field(default_factory=dict)

    @property
    def tiles_per_forward(self) -> int:
        """Labelled tiles of all ranks in one forward pass: what OHEM and BatchNorm see."""
        return self.batch // self.micro_batches

    def saves(self, done: int) -> bool:
        """Whether a checkpoint is due after so many steps."""
        return done == self.steps or done % self.save_every == 0

    def validates(self, done: int) -> bool:
        """Whether a validation is due."""
        return done == self.steps or done % self.val_every == 0

    def logs(self, done: int) -> bool:
        """Whether a row of the journal is due: every ``log_every`` steps, and before each save and validation."""
        return done % self.log_every == 0 or self.saves(done) or self.validates(done)

    def measures_gradients(self, done: int) -> bool:
        """Whether this step's row gets norms of gradients, which cost time."""
        return done % (5 * self.log_every) == 0
