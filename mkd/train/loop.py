"""The one training loop: go on, train, validate, save, log."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor, nn

from mkd.dist.engine import Engine
from mkd.metrics.confusion import ConfusionMatrix
from mkd.teacher.api import TeachersGone
from mkd.train.checkpoint import Checkpoints
from mkd.train.health import Figures, Health
from mkd.train.journal import Journal
from mkd.train.optim import set_poly_lr
from mkd.train.views import Views, seed_step


class Step(Protocol):
    """What the loop asks of supervised, KD and semi-supervised steps."""

    model: nn.Module

    @property
    def result(self) -> nn.Module:
        """The network that is validated and becomes the model folder."""
        ...

    def train(self) -> None:
        """Set training mode."""
        ...

    def __call__(self, views: Views, progress: float, diagnose: bool) -> dict[str, Tensor]:
        """Return losses by name."""
        ...

    def updated(self) -> None:
        """Called after each optimizer update."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return state beyond the model."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it up."""
        ...


@dataclass
class Phase:
    """One call of the loop.

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


def fit(
    phase: Phase,
    step_fn: Step,
    feed: Callable[[int, int], Iterator[Views]],
    engine: Engine,
    optimizer: torch.optim.Optimizer,
    checkpoints: Checkpoints,
    journal: Journal,
    validate: Callable[[nn.Module], ConfusionMatrix] | None,
    health: Health | None = None,
) -> dict[str, Tensor]:
    """Train one phase to its end, going on from its latest checkpoint, and return the chosen weights.

    Chosen are the weights with the best validation mIoU; the last ones without a validation set.

    Raises:
        ValueError: a loss is not finite; the last checkpoint stays good. Or the teachers are gone, after a checkpoint.
        Collapsed: the pseudo-labels have collapsed, and the caller is to go back to the good checkpoint.
    """
    start, best = _go_on(checkpoints, step_fn, optimizer, journal, phase, health)
    inputs = feed(start, phase.steps)
    step_fn.train()
    clock, images = time.monotonic(), 0
    for step in range(start, phase.steps):
        # 1. train
        seed_step(phase.seed, step, engine.world.rank)
        lr = set_poly_lr(optimizer, phase.lr, step, phase.steps, phase.power)
        views = next(inputs)
        try:
            with engine.autocast():
                losses = step_fn(views, step / phase.steps, diagnose=(step + 1) % (5 * phase.log_every) == 0)
        except TeachersGone:  # nothing of this step has happened yet
            _save(checkpoints, phase, step_fn, optimizer, step, best)
            raise
        engine.update(losses["loss"], optimizer)
        step_fn.updated()
        done, images = step + 1, images + len(views.images)
        last = done == phase.steps
        saves, validates = last or done % phase.save_every == 0, last or done % phase.val_every == 0
        # 2. log; the only place that waits for the device
        if done % phase.log_every == 0 or saves or validates:
            values = _finite({k: float(v.detach()) for k, v in losses.items()}, phase, done, checkpoints)
            speed = images / (time.monotonic() - clock)
            figures = Figures({}, {}) if health is None else health.report()
            epoch = done / phase.steps_an_epoch
            journal.train(phase.name, done, epoch, lr, speed, {**values, **figures.values}, figures.groups)
            if health is not None:
                health.check()
            clock, images = time.monotonic(), 0
        # 3. validate
        if validates and validate is not None:
            matrix = validate(step_fn.result)
            step_fn.train()
            journal.validation(phase.name, done, matrix)
            if matrix.miou() > best or not checkpoints.best.exists():
                best = matrix.miou()
                checkpoints.save_best(step_fn.result.state_dict())
            clock = time.monotonic()
        # 4. save, after the best weights: a kill between the two repeats the validation and chooses the same
        if saves:
            _save(checkpoints, phase, step_fn, optimizer, done, best)
            if health is not None and health.keeps:
                checkpoints.keep_good()
            clock = time.monotonic() if images == 0 else clock
    return checkpoints.load_best() if validate is not None else step_fn.result.state_dict()


def _go_on(
    checkpoints: Checkpoints,
    step_fn: Step,
    optimizer: torch.optim.Optimizer,
    journal: Journal,
    phase: Phase,
    health: Health | None,
) -> tuple[int, float]:
    """Take up the latest checkpoint; return the next step and the best mIoU so far."""
    saved = checkpoints.load()
    if saved is None:
        journal.start(phase.name, 0, phase.steps)
        return 0, -math.inf
    step_fn.model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    step_fn.load_state_dict(saved["step_state"])
    if health is not None and health.keeps:
        checkpoints.keep_good()  # a kill may have come between the checkpoint and this
    journal.start(phase.name, saved["step"], phase.steps)
    return saved["step"], saved["best"]


def _save(
    checkpoints: Checkpoints,
    phase: Phase,
    step_fn: Step,
    optimizer: torch.optim.Optimizer,
    step: int,
    best: float,
) -> None:
    """Save a checkpoint, or end the run when an update broke the weights although its loss was finite."""
    model = step_fn.model.state_dict()
    if not all(bool(t.isfinite().all()) for t in model.values()):
        _end(phase, step, "a weight", checkpoints)
    state: dict[str, Any] = {
        "step": step,
        "best": best,
        "model": model,
        "optimizer": optimizer.state_dict(),
        "step_state": step_fn.state_dict(),
    }
    checkpoints.save(state)


def _finite(values: dict[str, float], phase: Phase, step: int, checkpoints: Checkpoints) -> dict[str, float]:
    """Return the values, or end the run: a checkpoint of NaN weights would cost the user days."""
    bad = [k for k, v in values.items() if not math.isfinite(v)]
    if "loss" in bad:
        parts = ", ".join(b for b in bad if b != "loss") or "loss"
        _end(phase, step, parts, checkpoints)
    return values


def _end(phase: Phase, step: int, what: str, checkpoints: Checkpoints) -> NoReturn:
    latest = checkpoints.latest
    kept = f"the last good checkpoint is {latest}" if latest.exists() else "no checkpoint yet"
    raise ValueError(
        f"{phase.name} phase, step {step}: {what} is not finite; {kept}; "
        "lower optim.lr or set optim.clip=1.0 in a new run folder"
    )
