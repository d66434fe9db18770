"""The one training loop: go on, train, log, validate, save, stop when asked to."""

from collections.abc import Callable, Iterator

from torch import Tensor, nn

from mkd.distributed.engine import Engine
from mkd.metrics.confusion import ConfusionMatrix
from mkd.models.dropout import seed_dropout
from mkd.teacher.api import TeachersGone
from mkd.train.batches import StepBatch
from mkd.train.optim import set_poly_lr
from mkd.train.phase import Phase, Step
from mkd.train.pseudo.monitor import PseudoLabelMonitor
from mkd.train.run.checkpoint import Checkpoints
from mkd.train.run.journal import Journal
from mkd.train.run.startup_timer import StartupTimer
from mkd.train.run.stop_request import Stopped, StopRequest
from mkd.train.trainer import Trainer


def fit(
    phase: Phase,
    step: Step,
    feed: Callable[[int, int], Iterator[StepBatch]],
    engine: Engine,
    checkpoints: Checkpoints,
    journal: Journal,
    validate: Callable[[nn.Module], ConfusionMatrix] | None,
    health: PseudoLabelMonitor | None,
    stop: StopRequest,
    clock: StartupTimer,
) -> dict[str, Tensor]:
    """Train one phase to its end, going on from its latest checkpoint, and return the chosen weights.

    Chosen are the weights with the best validation mIoU; the last ones without a validation set. All ranks call this.

    Raises:
        ValueError: a loss is not finite; the last checkpoint stays good. Or the teachers are gone, after a checkpoint.
        Collapsed: the pseudo-labels have collapsed, and the caller is to go back to the good checkpoint.
        Stopped: as asked, after a checkpoint.
    """
    course = Trainer(phase, step, engine, checkpoints, journal, validate, health)
    try:
        _train(course, feed, stop, clock)
        return course.result()
    finally:
        checkpoints.wait()


def _train(
    course: Trainer, feed: Callable[[int, int], Iterator[StepBatch]], stop: StopRequest, clock: StartupTimer
) -> None:
    phase, step = course.phase, course.step
    start = course.resume()
    step.net = course.engine.net
    step.train()
    inputs = feed(start, phase.steps)
    for now in range(start, phase.steps):
        lr = set_poly_lr(course.engine.optimizer, phase.lr, now, phase.steps, phase.power)
        views = _prepared(course, next(inputs), now, stop, clock)
        losses = _update(course, views, now)
        course.meter.images += len(views.images)
        done = now + 1
        if not clock.told:
            course.journal.say(clock.first_step(losses["loss"]))
        if phase.logs(done):
            course.log(done, lr, losses)
        if phase.validates(done):
            course.validate(done)
        wish = stop.level_of_all_ranks() if done < phase.steps else 0
        # After the best weights: a kill between the two repeats the validation and chooses the same.
        if phase.saves(done) or wish:
            course.save(done)
        if wish:
            _leave(course, stop, done, wish)


def _prepared(
    course: Trainer, views: StepBatch, now: int, stop: StopRequest, clock: StartupTimer
) -> StepBatch:
    """Return what a step trains on; teachers that are gone, or a wish heard in the wait, leave a checkpoint."""
    if not clock.told:
        clock.done("data")
    try:
        return course.step.prepare(views, now / course.phase.steps)
    except TeachersGone:  # on all ranks, and nothing of this step has happened yet
        # With several ranks the first answer is to the question of the step before.
        wish = stop.level_of_all_ranks() or stop.level_of_all_ranks()
        course.save(now)
        if wish:
            _leave(course, stop, now, wish)
        raise


def _update(course: Trainer, views: StepBatch, now: int) -> dict[str, Tensor]:
    """Do one step: each micro-batch forward and backward, one update; return this rank's shares of the losses.

    The batch's loss is the mean over the forward passes. For L_KD and L_cons that is the mean over the pixels of the
    whole batch, and L_EWC is the same in all. Not so L_sup: OHEM chooses among the pixels of one forward pass of all
    ranks, so it is the mean of the passes' means, as is ``ewc_ratio``, and BatchNorm's statistics are one pass's.
    """
    phase, step, engine = course.phase, course.step, course.engine
    parts = views.split(phase.micro_batches)
    size, first = len(parts[0].images), engine.world.rank * len(views.images)
    found: dict[str, Tensor] = {}
    for n, part in enumerate(parts):
        slots = range(first + n * size, first + (n + 1) * size)
        seed_dropout(step.model, phase.seed, now, slots, phase.batch)
        with engine.accumulating(last=n + 1 == len(parts)):
            with engine.autocast():
                losses = step(part, phase.diagnoses(now + 1))
            engine.backward(losses["loss"] / len(parts))
        for name, loss in losses.items():
            share = loss.detach() / len(parts)
            found[name] = found[name] + share if name in found else share
    engine.update()
    step.updated()
    return found


def _leave(course: Trainer, stop: StopRequest, done: int, wish: int) -> None:
    """End the run at a checkpoint, on all ranks."""
    phase, world = course.phase, course.engine.world
    course.checkpoints.wait()
    stop.acknowledge()
    course.journal.say(f"{phase.name}: stopped at step {done} of {phase.steps}; the same command goes on")
    world.barrier()  # a rank that has ended makes torchrun end those that still write
    raise Stopped(wish)
