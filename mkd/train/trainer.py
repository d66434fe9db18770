"""What happens to a phase between its steps: go on, log, validate, save; all ranks decide alike and one writes."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from mkd.distributed.engine import Engine
from mkd.metrics.confusion import ConfusionMatrix
from mkd.train.phase import Phase, Step
from mkd.train.pseudo.monitor import Figures, PseudoLabelMonitor
from mkd.train.run.checkpoint import Checkpoints
from mkd.train.run.journal import Journal
from mkd.train.run.run_lock import LockLost


@dataclass
class Throughput:
    """Labelled images a second."""

    images: int = 0
    began: float = field(default_factory=time.monotonic)

    def speed(self) -> float:
        """Return it since the last call, and start anew."""
        found = self.images / (time.monotonic() - self.began)
        self.images, self.began = 0, time.monotonic()
        return found

    def resume(self) -> None:
        """Leave the time since the last row out, when nothing was trained in it."""
        if self.images == 0:
            self.began = time.monotonic()


@dataclass
class Trainer:
    """A phase under way.

    Attributes:
        phase: its numbers.
        step: what is repeated.
        engine: how it runs.
        checkpoints: of the phase.
        journal: silent on all ranks but one.
        validate: model -> confusion matrix over all validation tiles; None without a validation set.
        health: monitor of pseudo-labels, or None.
        best: highest validation mIoU so far.
        meter: of the speed.
    """

    phase: Phase
    step: Step
    engine: Engine
    checkpoints: Checkpoints
    journal: Journal
    evaluate: Callable[[nn.Module], ConfusionMatrix] | None = None
    monitor: PseudoLabelMonitor | None = None
    best: float = -math.inf
    meter: Throughput = field(default_factory=Throughput)

    def resume(self) -> int:
        """Take up the latest checkpoint; return the next step.

        Raises:
            ValueError: ranks see different checkpoints, or a file that it refers to has changed.
        """
        saved = self.checkpoints.load()
        start = 0 if saved is None else int(saved["step"])
        self._check_start(start, {} if saved is None else saved["refers"])
        if saved is not None:
            self._compare(int(saved.get("together", self.phase.together)))  # older checkpoints do not say
            self.engine.load_state_dict({name: saved[name] for name in ("model", "optimizer")})
            self.step.load_state_dict(saved["step_state"])
            self.best = saved["best"]
            # A kill may have come between the checkpoint and its other names.
            self.checkpoints.keep_as(start, self._is_good(start))
        self.journal.start(self.phase.name, start, self.phase.steps)
        return start

    def log(self, done: int, lr: float, losses: dict[str, Tensor]) -> None:
        """Write a row; the only place that waits for the device.

        Args:
            done: steps done.
            lr: base learning rate of the last one.
            losses: this rank's shares of its values.

        Raises:
            ValueError: the loss is not finite.
            Collapsed: the pseudo-labels have collapsed.
        """
        shares = torch.stack([share.detach().float() for share in losses.values()])
        values = dict(zip(losses, self.engine.world.all_reduce_sum(shares).tolist(), strict=True))
        if not math.isfinite(values["loss"]):
            bad = [name for name, v in values.items() if not math.isfinite(v) and name != "loss"]
            self._end(done, ", ".join(bad) or "loss")
        speed = self.meter.speed() * self.engine.world.ranks
        figures = Figures({}, {}) if self.monitor is None else self.monitor.report()
        epoch = done / self.phase.steps_an_epoch
        self.journal.train(
            self.phase.name, done, epoch, lr, speed, {**values, **figures.values}, figures.groups
        )
        if self.monitor is not None:
            self.monitor.check()

    def validate(self, done: int) -> None:
        """Validate and keep the best weights.

        Raises:
            LockLost: another process has taken the run folder.
        """
        if self.evaluate is None:
            return
        self._check_owner()
        matrix = self.evaluate(self.step.result)
        self.step.train()
        self.journal.validation(self.phase.name, done, matrix)
        if matrix.miou() > self.best or not self.checkpoints.has_best():
            self.best = matrix.miou()
            self.checkpoints.save_best(self.step.result.state_dict())
        self.meter.resume()

    def save(self, done: int) -> None:
        """Save a checkpoint of tensors that are finite, and equal on all ranks.

        Raises:
            ValueError: an update broke the weights although its loss was finite, or ranks have come apart.
            LockLost: another process has taken the run folder; nothing is written.
        """
        self._check_owner()
        state = self.engine.state_dict()
        if not all(bool(t.isfinite().all()) for t in state["model"].values()):
            self._end(done, "a weight")
        step_state, world = self.step.state_dict(), self.engine.world
        shared = (t.to(world.device) for t in _tensors([state["model"], step_state]))
        world.check_equal(shared, f"{self.phase.name} phase, step {done}: the weights, or their average,")
        about = {"step": done, "best": self.best, "refers": dict(self.phase.refers)}
        about |= {"together": self.phase.together}
        self.checkpoints.save({**about, **state, "step_state": step_state}, self._is_good(done))
        self.meter.resume()

    def result(self) -> dict[str, Tensor]:
        """Return the weights with the best validation; without one the last."""
        if self.evaluate is None:
            return self.step.result.state_dict()
        world = self.engine.world
        self.checkpoints.wait()
        world.barrier()  # the last best weights are written
        weights = self.checkpoints.load_best()
        world.check_equal(
            weights.values(), f"{self.phase.name} phase: the best weights, read from {self.checkpoints.best},"
        )
        return weights

    def _is_good(self, done: int) -> bool:
        """Whether a checkpoint is one to go back to: not where a run stopped, which another would not have done."""
        return self.monitor is not None and self.monitor.keeps and done > 0 and self.phase.saves(done)

    def _check_start(self, start: int, refers: dict[str, str]) -> None:
        world, latest = self.engine.world, self.checkpoints.latest
        first = world.broadcast(start)
        if start != first:
            raise ValueError(
                f"rank {world.rank} finds the checkpoint of step {start} in {latest} and rank 0 that of step {first}; "
                "all nodes must share the storage that out= lies on"
            )
        for name, digest in refers.items():
            if self.phase.refers.get(name) != digest:
                raise ValueError(
                    f"{latest} was written with another {name}; put that file back, or delete {latest.parent} to "
                    "train the phase again"
                )

    def _compare(self, before: int) -> None:
        """Warn of other forward passes than those that the checkpoint comes from."""
        now = self.phase.together
        if now != before:
            self.journal.say(
                f"{self.phase.name}: WARNING: the checkpoint comes from forward passes of {before} tiles over all "
                f"ranks, now they have {now}: OHEM and BatchNorm see other tiles together, and the numbers are not "
                f"those of a run that was never stopped; ranks x data.micro = {before} keeps them"
            )

    def _check_owner(self) -> None:
        taken = self.engine.world.broadcast(self.checkpoints.taken())
        if taken is not None:
            self.journal.say(taken)
            self.engine.world.barrier()  # as in a stop: a rank that has ended makes torchrun end the others
            raise LockLost

    def _end(self, done: int, what: str) -> NoReturn:
        """End the run: a checkpoint of NaN weights would cost the user days."""
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
