"""What happens to a phase between its steps: resume, log, validate, save; all ranks decide alike and one writes."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mkd.distributed.engine import Engine
from mkd.metrics.confusion import ConfusionMatrix
from mkd.train.phase import Phase, Step
from mkd.train.pseudo.monitor import Figures, PseudoLabelMonitor
from mkd.train.run.checkpoint import Checkpoints
from mkd.train.run.journal import Journal
from mkd.train.run.run_lock import LockLost
from mkd.train.run.saved_state import checked_step, restoring
from mkd.train.run.warnings import ewc_fault, one_class_alone


@dataclass
class Throughput:
    """Measures labelled images a second of this rank.

    Attributes:
        images: seen since the last row.
        since: time of the last row, seconds.
    """

    images: int = 0
    since: float = field(default_factory=time.monotonic)

    def images_per_second(self) -> float:
        """Return the throughput since the last call, and start again at 0."""
        found = self.images / (time.monotonic() - self.since)
        self.images, self.since = 0, time.monotonic()
        return found

    def leave_out_pause(self) -> None:
        """Do not count the time since the last row, when nothing was trained in it."""
        if self.images == 0:
            self.since = time.monotonic()


@dataclass
class Trainer:
    """The state of a phase that is being trained; all ranks call its methods together.

    Attributes:
        phase: its numbers.
        step: what is repeated.
        engine: runs it on the device and over the ranks.
        checkpoints: of the phase.
        journal: silent on all ranks but rank 0.
        evaluate: model -> confusion matrix over all validation tiles; None without a validation set.
        monitor: of the pseudo-labels, or None.
        picture: model -> some validation tiles with labels and prediction, uint8 (H,W,3); None shows none.
        best: highest validation mIoU so far, in [0,1].
        stale: validations since then.
        ewc_warned: whether a share of L_EWC that is too large or too small has been said.
        throughput: of this rank since the last row.
    """

    phase: Phase
    step: Step
    engine: Engine
    checkpoints: Checkpoints
    journal: Journal
    evaluate: Callable[[nn.Module], ConfusionMatrix] | None = None
    monitor: PseudoLabelMonitor | None = None
    picture: Callable[[nn.Module], NDArray[np.uint8]] | None = None
    best: float = -math.inf
    stale: int = 0
    ewc_warned: bool = False
    throughput: Throughput = field(default_factory=Throughput)

    def resume(self) -> int:
        """Restore the latest checkpoint, if there is one; return the number of steps done.

        Raises:
            ValueError: ranks see different checkpoints, a file that it refers to has changed, or it is damaged.
        """
        saved = self.checkpoints.load()
        start = 0 if saved is None else checked_step(saved, self.checkpoints.latest, self.phase.steps)
        self._check_start(start, {} if saved is None else saved["refers"])
        if saved is not None:
            # older checkpoints have no "together"
            self._warn_of_other_forward(int(saved.get("together", self.phase.tiles_per_forward)))
            with restoring(self.checkpoints.latest):
                self.engine.load_state_dict({name: saved[name] for name in ("model", "optimizer")})
                self.step.load_state_dict(saved["step_state"])
                # older checkpoints do not count validations since the best
                self.best, self.stale = saved["best"], int(saved.get("stale", 0))
            # A kill may have come between the checkpoint and its other names.
            self.checkpoints.keep_as(start, self._is_good(start))
        self.journal.start(self.phase.name, start, self.phase.steps)
        return start

    def log(self, done: int, lr: float, losses: dict[str, Tensor]) -> None:
        """Write a row; the only place that waits for the device.

        Args:
            done: steps done.
            lr: base learning rate of the last one.
            losses: this rank's partial losses by name, scalars.

        Raises:
            ValueError: the loss is not finite.
            Collapsed: the pseudo-labels have collapsed.
        """
        # Partial losses of all ranks -> losses. All ranks wait here, for each other and for their devices.
        partials = torch.stack([partial.detach().float() for partial in losses.values()])
        values = dict(zip(losses, self.engine.world.all_reduce_sum(partials).tolist(), strict=True))
        if not math.isfinite(values["loss"]):
            bad = [name for name, v in values.items() if not math.isfinite(v) and name != "loss"]
            self._fail(done, ", ".join(bad) or "loss")
        if not self.ewc_warned and (fault := ewc_fault(values.get("ewc_ratio"), done / self.phase.steps)):
            self.ewc_warned = True
            self.journal.say(f"warning: {self.phase.name}, step {done}: {fault}")
        # The row: losses, and what the monitor has counted since the last one.
        speed = self.throughput.images_per_second() * self.engine.world.ranks
        figures = Figures({}, {}) if self.monitor is None else self.monitor.report()
        epoch, values = done / self.phase.steps_an_epoch, {**values, **figures.values}
        row: dict[str, Any] = {"epoch": epoch, "lr": lr, "speed": speed, "values": values}
        self.journal.train(self.phase.name, done, groups=figures.groups, **row)
        if self.monitor is not None:
            self.monitor.check()

    def validate(self, done: int) -> None:
        """Validate and keep the best weights.

        Raises:
            LockLost: another process has taken the run folder.
        """
        if self.evaluate is None:
            return
        self._check_lock()
        # Each rank counts its part of the tiles; the matrix is that of all, so that all ranks choose alike.
        matrix = self.evaluate(self.step.result)
        if self.picture is not None and self.engine.world.is_main:
            self.journal.picture(done, self.picture(self.step.result))
        self.step.train()
        self.journal.validation(self.phase.name, done, matrix)
        if done > 0 and (alone := one_class_alone(matrix, self.journal.classes)):
            self.journal.say(f"warning: {self.phase.name}, step {done}: {alone}")
        self.stale += 1
        if matrix.miou() > self.best or not self.checkpoints.has_best():
            self.best, self.stale = matrix.miou(), 0
            self.checkpoints.save_best(self.step.result.state_dict())
        self.throughput.leave_out_pause()

    def save(self, done: int) -> None:
        """Save a checkpoint of tensors that are finite, and equal on all ranks.

        Raises:
            ValueError: an update broke the weights although its loss was finite, or ranks have come apart.
            LockLost: another process has taken the run folder; nothing is written.
        """
        self._check_lock()
        # Rather no checkpoint than one of NaN weights, or of ranks that differ; all ranks wait for each other here.
        state = self.engine.state_dict()
        if not all(bool(t.isfinite().all()) for t in state["model"].values()):
            self._fail(done, "a weight")
        step_state, world = self.step.state_dict(), self.engine.world
        shared = (t.to(world.device) for t in _tensors([state["model"], step_state]))
        world.check_equal(shared, f"{self.phase.name} phase, step {done}: the weights, or their average,")
        # What to go on from; the names are those of the file format.
        about = {"step": done, "best": self.best, "stale": self.stale, "refers": dict(self.phase.fixed_files)}
        about |= {"together": self.phase.tiles_per_forward}
        self.checkpoints.save({**about, **state, "step_state": step_state}, self._is_good(done))
        self.throughput.leave_out_pause()

    def on_plateau(self) -> bool:
        """Whether the phase has gone on long enough without a rise of the validation mIoU."""
        return (
            self.phase.plateau is not None and self.evaluate is not None and self.stale >= self.phase.plateau
        )

    def result(self) -> dict[str, Tensor]:
        """Return the weights with the best validation mIoU; the last ones without a validation set."""
        if self.evaluate is None:
            return self.step.result.state_dict()
        world = self.engine.world
        self.checkpoints.wait()  # rank 0: for its thread that writes the best weights
        world.barrier()  # the others: for rank 0
        weights = self.checkpoints.load_best()
        world.check_equal(
            weights.values(), f"{self.phase.name} phase: the best weights, read from {self.checkpoints.best},"
        )
        return weights

    def _is_good(self, done: int) -> bool:
        """Whether a checkpoint is one to go back to; one made for a stop alone is not, so that stops change nothing."""
        return self.monitor is not None and self.monitor.is_healthy and done > 0 and self.phase.saves(done)

    def _check_start(self, start: int, fixed_files: dict[str, str]) -> None:
        """Check that all ranks see the same checkpoint, and that the files it was trained with are unchanged."""
        world, latest = self.engine.world, self.checkpoints.latest
        # Each rank waits for rank 0's step and compares it with its own.
        of_rank0 = world.broadcast(start)
        if start != of_rank0:
            raise ValueError(
                f"rank {world.rank} finds the checkpoint of step {start} in {latest} and rank 0 that of "
                f"step {of_rank0}; all nodes must share the storage that out= lies on"
            )
        for name, digest in fixed_files.items():
            if self.phase.fixed_files.get(name) != digest:
                raise ValueError(
                    f"{latest} was written with another {name}; put that file back, or delete {latest.parent} to "
                    "train the phase again"
                )

    def _warn_of_other_forward(self, before: int) -> None:
        """Warn when the checkpoint comes from forward passes of another number of tiles."""
        now = self.phase.tiles_per_forward
        if now != before:
            self.journal.say(
                f"{self.phase.name}: WARNING: the checkpoint comes from forward passes of {before} tiles over all "
                f"ranks, now they have {now}: OHEM and BatchNorm see other tiles together, and the numbers are not "
                f"those of a run that was never stopped; ranks x data.micro = {before} keeps them"
            )

    def _check_lock(self) -> None:
        """End all ranks when another process has taken the run folder."""
        # Rank 0 reads the lock file for all, which wait for its answer: they end together or not at all.
        new_owner = self.engine.world.broadcast(self.checkpoints.lock_lost())
        if new_owner is not None:
            self.journal.say(new_owner)
            self.engine.world.barrier()  # as in a stop: torchrun ends the other ranks as soon as one has ended
            raise LockLost

    def _fail(self, done: int, what: str) -> NoReturn:
        """End the run with what is not finite, and the last good checkpoint."""
        latest = self.checkpoints.latest
        self.checkpoints.wait()
        kept = f"the last good checkpoint is {latest}" if latest.exists() else "no checkpoint yet"
        raise ValueError(
            f"{self.phase.name} phase, step {done}: {what} is not finite; {kept}; "
            "lower optim.lr or set optim.clip=1.0 in a new run folder"
        )


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested dicts and lists, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)
