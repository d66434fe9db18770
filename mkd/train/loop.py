"""The one training loop of every stage: train one step, log, evaluate, save, stop when asked to.

What a step computes is a `Step`: `steps/supervised.py`, `steps/kd.py` (the way to L_KD) or `steps/semi.py`.
What happens between two steps is the `Trainer`'s.
"""

from collections.abc import Callable, Iterator

from torch import Tensor

from mkd.models.dropout import seed_dropout
from mkd.teacher.api import TeachersGone
from mkd.train.batches import StepBatch
from mkd.train.optim import set_poly_lr
from mkd.train.run.startup_timer import StartupTimer
from mkd.train.run.stop_request import Stopped, StopRequest
from mkd.train.trainer import Trainer

# (first step, number of steps) -> the batches of these steps
Batches = Callable[[int, int], Iterator[StepBatch]]


def fit(trainer: Trainer, batches: Batches, stop: StopRequest, timer: StartupTimer) -> dict[str, Tensor]:
    """Train one phase to its end, from its latest checkpoint on, and return the chosen weights.

    Chosen are the weights with the best validation mIoU; the last ones without a validation set.

    Args:
        trainer: the phase, its step, and where it is saved and logged; all ranks call this together.
        batches: gives this rank's part of the batches of steps ``start`` .. ``stop - 1``.
        stop: requests to stop, of all ranks.
        timer: of the start-up; it reports the first step.

    Returns:
        State dict of the network that becomes the model folder, on the CPU or the device.

    Raises:
        ValueError: a loss is not finite; the last checkpoint stays good. Or the teachers are gone, after a checkpoint.
        Collapsed: the pseudo-labels have collapsed, and the caller is to go back to the good checkpoint.
        Stopped: as requested, after a checkpoint.
    """
    try:
        _train(trainer, batches, stop, timer)
        return trainer.result()
    finally:
        trainer.checkpoints.wait()  # for the thread that writes them: none is left half-written


def _train(trainer: Trainer, batches: Batches, stop: StopRequest, timer: StartupTimer) -> None:
    """Repeat five chapters: train one step, log, evaluate, save, stop; a resumed run starts at the first."""
    phase, step, engine = trainer.phase, trainer.step, trainer.engine
    start = trainer.resume()
    step.net = engine.net
    step.train()
    if start == 0 and phase.validates_start:
        trainer.validate(0)
    if trainer.on_plateau():  # it was stopped after it had ended
        return
    inputs = batches(start, phase.steps)
    for index in range(start, phase.steps):
        done = index + 1

        # 1. Train one step.
        lr = set_poly_lr(engine.optimizer, phase.lr, index, phase.steps, phase.power)
        batch = _prepare(trainer, next(inputs), index, stop, timer)
        losses = _train_step(trainer, batch, index)
        trainer.throughput.images += len(batch.images)

        # 2. Log; the only chapter that waits for the device.
        if not timer.reported:
            trainer.journal.say(timer.first_step(losses["loss"]))
        if phase.logs(done):
            trainer.log(done, lr, losses)

        # 3. Evaluate.
        if phase.validates(done):
            trainer.validate(done)

        # 4. Save; after the best weights, so that a kill between the two repeats the validation and chooses the same.
        level = stop.level_of_all_ranks() if done < phase.steps else 0
        ends = phase.validates(done) and done < phase.steps and trainer.on_plateau()
        if phase.saves(done) or level or ends:
            trainer.save(done)
        if ends:
            trainer.journal.say(
                f"{phase.name}: no rise of the validation mIoU in {phase.plateau} validations: ended at step {done} of "
                f"{phase.steps}; semi.plateau=null goes on to the last step"
            )
            return

        # 5. Stop.
        if level:
            _stop(trainer, stop, done, level)


def _prepare(
    trainer: Trainer, batch: StepBatch, index: int, stop: StopRequest, timer: StartupTimer
) -> StepBatch:
    """Return what a step trains on: the batch, with pseudo-labels where the step asks a teacher for them.

    Raises:
        TeachersGone: after a checkpoint; on all ranks.
        Stopped: the ranks were asked to stop while they waited for their teachers; after a checkpoint.
    """
    if not timer.reported:
        timer.lap("data")
    try:
        return trainer.step.prepare(batch, index / trainer.phase.steps)
    except TeachersGone:  # on all ranks, and nothing of this step has happened yet
        # Several ranks get the answer to the call before, which was made after the last step: so they ask twice.
        level = stop.level_of_all_ranks() or stop.level_of_all_ranks()
        trainer.save(index)
        if level:
            _stop(trainer, stop, index, level)
        raise


def _train_step(trainer: Trainer, batch: StepBatch, index: int) -> dict[str, Tensor]:
    """Do one update: forward and backward of each micro-batch; return this rank's partial losses by name.

    The batch's loss is the mean over the forward passes. For L_KD and L_cons that is the mean over the pixels of the
    whole batch, and L_EWC is the same in all. Not so L_sup: OHEM chooses among the pixels of one forward pass of all
    ranks, so it is the mean of the passes' means, as is ``ewc_ratio``, and BatchNorm's statistics are one pass's.
    """
    phase, step, engine = trainer.phase, trainer.step, trainer.engine
    micro_batches = batch.split(phase.micro_batches)
    size, first = len(micro_batches[0].images), engine.world.rank * len(batch.images)
    totals: dict[str, Tensor] = {}
    for n, micro_batch in enumerate(micro_batches):
        # Dropout depends on a tile's place in the global batch, whatever the ranks and micro-batches.
        slots = range(first + n * size, first + (n + 1) * size)
        seed_dropout(step.model, phase.seed, index, slots, phase.batch)
        # Gradients add up; the ranks exchange them in the backward pass of the last micro-batch only.
        with engine.accumulating(last=n + 1 == len(micro_batches)):
            with engine.autocast():
                losses = step(micro_batch, phase.measures_gradients(index + 1))
            engine.backward(losses["loss"] / len(micro_batches))
        for name, loss in losses.items():
            partial = loss.detach() / len(micro_batches)
            totals[name] = totals[name] + partial if name in totals else partial
    engine.update()
    step.after_update()
    return totals


def _stop(trainer: Trainer, stop: StopRequest, done: int, level: int) -> None:
    """End the run at the checkpoint just saved, on all ranks."""
    phase, world = trainer.phase, trainer.engine.world
    trainer.checkpoints.wait()  # for the thread that writes it
    stop.acknowledge()
    trainer.journal.say(f"{phase.name}: stopped at step {done} of {phase.steps}; the same command goes on")
    # All wait for rank 0's files: torchrun ends the other ranks as soon as one has ended.
    world.barrier()
    raise Stopped(level)
