"""What all training runs share: config -> run folder with a model folder in it."""

import contextlib
import os
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from mkd.cli.exit import node
from mkd.cli.log_lines import route_log_lines
from mkd.config import schema
from mkd.config.comparison import difference
from mkd.config.load import to_yaml
from mkd.dataset.index import DatasetIndex, read_index
from mkd.distributed.engine import Engine
from mkd.distributed.rank0 import run_on_rank0
from mkd.distributed.world import World, find_world
from mkd.model_folder import ModelCard, save_model
from mkd.models.segmentation import SegmentationNetwork
from mkd.pixel_scale import PixelScale
from mkd.recipes import factories
from mkd.recipes.run_folder import open_run, versions
from mkd.train.batches import BatchStream
from mkd.train.loop import fit
from mkd.train.phase import Phase, Step
from mkd.train.pseudo.monitor import PseudoLabelMonitor
from mkd.train.run.checkpoint import Checkpoints
from mkd.train.run.journal import Journal
from mkd.train.run.run_lock import RunLock
from mkd.train.run.startup_timer import StartupTimer
from mkd.train.run.stop_request import StopRequest, end_with_torchrun
from mkd.train.trainer import Trainer


def join_ranks(config: schema.RunConfig) -> tuple[World, StartupTimer]:
    """Return this process's place among the ranks, and the timer of the start-up; waits for all ranks."""
    timer = StartupTimer()
    end_with_torchrun()
    world = find_world(config.device)
    if world.ranks > 1 and world.local_rank == 0:
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        print(f"node {node()}: ranks {world.rank} to {world.rank + here - 1} of {world.ranks}", flush=True)
    timer.lap("ranks")
    return world, timer


class Run:
    """One run folder with its journal, and what all phases in it share.

    A context in which this process holds the folder's lock, requests to stop are heard, and log records reach the
    journal.

    Args:
        config: of the run.
        world: this process's place; rank 0 alone writes.
        index: of the labelled tiles: classes and palette of the model.
        timer: of the start-up.

    Raises:
        ValueError: the folder belongs to another run, the batch cannot be shared by the ranks, or the ranks were
            started with different configs.
    """

    def __init__(
        self, config: schema.RunConfig, world: World, index: DatasetIndex, timer: StartupTimer
    ) -> None:
        """Open the folder; no tile is read yet."""
        self.config, self.world, self.index, self.timer = config, world, index, timer
        factories.micro_batches(config.data, world.ranks)
        _check_same(config, world)
        self.folder = Path(run_on_rank0(world, lambda: str(open_run(config))))
        self.journal = Journal(self.folder, tuple(index.classes), world.is_main)
        self.stop = StopRequest(world, self.folder / "stop")
        self.lock = RunLock(self.folder / "owner.json")
        self._context = contextlib.ExitStack()

    def __enter__(self) -> "Run":
        """Take the folder's lock, unless the run has ended, and hear requests to stop from now on.

        Raises:
            ValueError: the process that writes the folder still runs.
        """
        with contextlib.ExitStack() as context:
            context.enter_context(route_log_lines(self.journal.say, "mkd.train"))
            # All ranks wait until rank 0 has the lock, or end with its message.
            run_on_rank0(self.world, lambda: None if self._has_model() else self.lock.acquire())
            context.callback(self._release)
            context.enter_context(self.stop)
            self._context = context.pop_all()
        return self

    def _release(self) -> None:
        if self.world.is_main:
            self.lock.release()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give signals, lock and log records back."""
        self._context.__exit__(kind, error, trace)

    def ended(self) -> bool:
        """Return whether the run's model folder exists, which is logged; all ranks wait for rank 0's answer."""
        done: bool = run_on_rank0(self.world, self._has_model)
        if done:
            self.journal.say(f"{self.folder}: this run has ended; its model is {self.folder / 'model'}")
        return done

    def _has_model(self) -> bool:
        return (self.folder / "model" / "model.yaml").is_file()

    def say(self, text: str) -> None:
        """Print a line that is about this rank alone."""
        if self.world.is_main:
            self.journal.say(text)
        else:
            print(f"rank {self.world.rank}: {text}", flush=True)

    def batch_stream(self, unlabelled: bool, scale: PixelScale) -> BatchStream:
        """Open the training tiles for a network of this scale; ``unlabelled`` adds the second stream."""
        self.timer.lap("model")
        batches = factories.batch_stream(
            self.config.data, self.config.seed, self.world, unlabelled, self.folder, scale
        )
        self.timer.lap("data")
        return batches

    def phase(self, name: str, steps: int, tiles: int, lr: float) -> Phase:
        """Return one phase of the loop, of so many steps; ``tiles`` are an epoch."""
        return factories.phase(self.config, name, steps=steps, tiles=tiles, lr=lr, ranks=self.world.ranks)

    def student_steps(self) -> int:
        """Return the steps of a phase that trains a student on the labelled tiles."""
        c = self.config
        if c.steps is not None:
            return c.steps
        return factories.length(c.epochs, self.index.samples, c.data.batch, usual=100, least=1000)

    def checkpoints(self, phase: Phase) -> Checkpoints:
        """Return the checkpoints of a phase."""
        folder, c = self.folder / "checkpoints" / phase.name, self.config
        background = self.world.device.type == "cuda"
        return Checkpoints(folder, self.world.is_main, c.keep_every, c.keep, background, self.lock.lost)

    def fit(
        self,
        phase: Phase,
        step: Step,
        batches: BatchStream,
        *,
        validated: bool = True,
        monitor: PseudoLabelMonitor | None = None,
    ) -> dict[str, Tensor]:
        """Train one phase by the loop, `mkd.train.loop.fit`, and return the chosen weights.

        Args:
            phase: in numbers.
            step: what the loop repeats; its model is a `SegmentationNetwork`.
            batches: of this rank.
            validated: choose the weights by validation, where data.val is given.
            monitor: of the pseudo-labels; None where there are none.
        """
        assert isinstance(step.model, SegmentationNetwork)
        # Ranks that start from different weights would go different ways; all wait for each other's hash here.
        what = f"{phase.name} phase: the weights at its start"
        self.world.check_equal([t.to(self.world.device) for t in step.model.state_dict().values()], what)
        streams = 1 if monitor is None and batches.unlabelled is None else 2
        trainer = Trainer(
            phase=phase,
            step=step,
            engine=factories.engine(self.config, step.model, self.world, phase, streams),
            checkpoints=self.checkpoints(phase),
            journal=self.journal,
            evaluate=factories.validator(self.config.data, self.world, step.model.architecture.scale)
            if validated
            else None,
            monitor=monitor,
        )
        self._describe(phase, batches, trainer.engine, validated and trainer.evaluate is None)
        self.timer.lap("model")
        try:
            return fit(trainer, batches, self.stop, self.timer)
        finally:
            self.journal.end()

    def _describe(self, phase: Phase, batches: BatchStream, engine: Engine, unvalidated: bool) -> None:
        """Log what is about to be trained, and how."""
        ranks, passes, say = self.world.ranks, phase.micro_batches, self.journal.say
        say(
            f"{self.folder}: {phase.name}, {phase.steps} steps of {phase.batch} tiles on "
            f"{self.world.device} ({torch.get_num_threads()} threads), seed {self.config.seed}, "
            f"{len(batches.labelled)} labelled"
            + (
                f" and {len(batches.unlabelled)} unlabelled tiles"
                if batches.unlabelled is not None
                else " tiles"
            )
        )
        for note in engine.notes:
            say(note)
        if ranks * passes > 1:
            say(
                f"batch of {phase.batch} = {ranks} ranks x {passes} forward passes x "
                f"{phase.batch // ranks // passes} tiles; OHEM and BatchNorm see one forward pass of all ranks"
            )
        if ranks > 1:
            say("weights and their average are compared between the ranks at each checkpoint")
        if unvalidated:
            say(f"{phase.name}: data.val is not given, so the last weights are kept, not the best")

    def write_model(
        self,
        model: SegmentationNetwork,
        weights: dict[str, Tensor],
        provenance: dict[str, object],
        name: str = "model",
    ) -> None:
        """Write the run's model folder; with the name ``model`` this ends the run. All ranks wait for rank 0."""
        about = {
            **provenance,
            "seed": self.config.seed,
            "data": self.config.data.labelled,
            "versions": versions(),
        }
        classes, palette = tuple(self.index.classes), tuple(self.index.palette)
        card = ModelCard(model.architecture, classes, palette, about, self.config.data.crop)
        run_on_rank0(self.world, lambda: save_model(self.folder / name, weights, card))


def _check_same(config: schema.RunConfig, world: World) -> None:
    """Check that all ranks were started with the same config; they wait for rank 0's."""
    if changed := difference(world.broadcast(to_yaml(config)), config, there="rank 0:"):
        raise ValueError(
            f"rank {world.rank} was started with another config than rank 0 ({changed}); "
            "start all ranks by the same command"
        )


def labelled_index(config: schema.RunConfig) -> DatasetIndex:
    """Read the labelled tiles' index; the validation set must have the same classes."""
    index = read_index(config.data.labelled)
    if config.data.val is not None:
        factories.check_classes("data.val", config.data.val, index.classes, "data.labelled")
    return index
