"""What all training runs share: config -> run folder with a model folder in it."""

import contextlib
import os
from collections.abc import Callable
from types import TracebackType

import torch
from torch import Tensor, nn

from mkd.cli.exit import node
from mkd.cli.log_lines import route_log_lines
from mkd.config import schema
from mkd.dataset.index import DatasetIndex, read_index
from mkd.distributed.engine import Engine
from mkd.distributed.rank0 import run_on_rank0
from mkd.distributed.world import World, find_world
from mkd.inference.validation_picture import Picture, validation_picture
from mkd.loader.loader import TileSet
from mkd.model_folder import ModelCard, check_model_folder, save_model
from mkd.models.segmentation import SegmentationNetwork
from mkd.pixel_scale import PixelScale
from mkd.recipes import factories
from mkd.recipes.run_folder import enter_run, notes_of_sets, versions
from mkd.train.batches import BatchStream
from mkd.train.loop import fit
from mkd.train.phase import Phase, Step
from mkd.train.pseudo.monitor import PseudoLabelMonitor
from mkd.train.run.checkpoint import Checkpoints
from mkd.train.run.journal import Journal
from mkd.train.run.run_inputs import RunInputs
from mkd.train.run.run_lock import RunLock
from mkd.train.run.startup_timer import StartupTimer
from mkd.train.run.stop_request import StopRequest, end_with_torchrun
from mkd.train.run.warnings import one_class_labels
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

    A context: this process holds the folder's lock, requests to stop are heard, log records reach the journal.

    Args:
        config: of the run.
        world: this process's place; rank 0 alone writes.
        index: of the labelled tiles: classes and palette of the model.
        timer: of the start-up.
        given: the config for the run folder, its plain folders not replaced; None is `config`.

    Raises:
        ValueError: the folder is another run's, the batch cannot be shared, or the ranks have different configs.
    """

    def __init__(
        self,
        config: schema.RunConfig,
        world: World,
        index: DatasetIndex,
        timer: StartupTimer,
        given: schema.RunConfig | None = None,
    ) -> None:
        """Open the folder; no tile is read yet."""
        self.config, self.world, self.index, self.timer = config, world, index, timer
        factories.micro_batches(config.data, world.ranks)
        self.folder, extended = enter_run(given or config, world)
        self.journal = Journal(self.folder, tuple(index.classes), world.is_main)
        if extended:
            self.journal.say(extended)
        self.stop = StopRequest(world, self.folder / "stop")
        self.lock = RunLock(self.folder / "owner.json")
        self.inputs = RunInputs(self.folder, world, config.accept, self.journal.say)
        self._context = contextlib.ExitStack()

    def __enter__(self) -> "Run":
        """Take the folder's lock, unless the run has ended, and hear requests to stop from now on.

        Raises:
            ValueError: the process that writes the folder still runs, or the run was begun with other tiles.
        """
        with contextlib.ExitStack() as context:
            context.enter_context(route_log_lines(self.journal.say, "mkd.train"))
            # All ranks wait until rank 0 has the lock, or end with its message.
            run_on_rank0(self.world, lambda: None if self._has_model() else self.lock.acquire())
            if self.world.is_main:
                context.callback(self.lock.release)
            if not run_on_rank0(self.world, self._has_model):
                self.inputs.check_versions(versions())
                self.inputs.check_data("data.labelled", self.config.data.labelled, self.index)
            context.enter_context(self.stop)
            self._context = context.pop_all()
        if self.world.is_main and not self._has_model():
            for note in notes_of_sets(self.config.data, self.index):
                self.journal.say(f"note: {note}")
        return self

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
        """Whether the run has ended; a model folder that nothing can use is no end.

        Raises:
            ValueError: there is one, and it is damaged.
        """
        if not (self.folder / "model" / "model.yaml").is_file():
            return False
        try:
            check_model_folder(self.folder / "model")
        except ValueError as error:
            raise ValueError(
                f"{error}; or delete {self.folder / 'model'}, and the run writes it again"
            ) from None
        return True

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
        self.check_data("data.labelled", batches.labelled)
        if batches.unlabelled is not None:
            self.check_data(
                "data.unlabelled" if self.config.data.pseudo is None else "data.pseudo", batches.unlabelled
            )
        self.timer.lap("data")
        return batches

    def check_data(self, key: str, tiles: TileSet) -> None:
        """Check that opened tiles are those of rank 0, and those that the run was begun with; see `RunInputs`."""
        self.inputs.check_data(key, tiles.folder, tiles.index)

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
        return Checkpoints(
            folder,
            self.world.is_main,
            c.keep_every,
            c.keep,
            background,
            self.lock.lost,
            run=self.inputs.run,
            accept_foreign="checkpoint" in c.accept,
        )

    def fit(
        self,
        phase: Phase,
        step: Step,
        batches: BatchStream,
        monitor: PseudoLabelMonitor | None = None,
    ) -> dict[str, Tensor]:
        """Train one phase by the loop, `mkd.train.loop.fit`, and return the chosen weights.

        Args:
            phase: in numbers.
            step: what the loop repeats; its model is a `SegmentationNetwork`.
            batches: of this rank.
            monitor: of the pseudo-labels; None where there are none.
        """
        assert isinstance(step.model, SegmentationNetwork)
        # Ranks that start from different weights would go different ways; all wait for each other's hash here.
        what = f"{phase.name} phase: the weights at its start"
        self.world.check_equal([t.to(self.world.device) for t in step.model.state_dict().values()], what)
        streams = 1 if monitor is None and batches.unlabelled is None else 2
        data, scale = self.config.data, step.model.architecture.scale
        trainer = Trainer(
            phase=phase,
            step=step,
            engine=factories.engine(self.config, step.model, self.world, phase, streams),
            checkpoints=self.checkpoints(phase),
            journal=self.journal,
            evaluate=factories.validator(data, self.world, self.check_data, scale),
            picture=_picture(data, scale, self.world.device),
            monitor=monitor,
        )
        _describe(self, phase, batches, trainer.engine, data.val is None)
        self.timer.lap("model")
        try:
            return fit(trainer, batches, self.stop, self.timer)
        finally:
            self.journal.end()

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


def _picture(
    data: schema.DataConfig, scale: PixelScale, device: torch.device
) -> Callable[[nn.Module], Picture] | None:
    """Return what draws some validation tiles with a model's prediction; None without ``data.val``."""
    if data.val is None:
        return None
    tiles = factories.open_tiles(data, data.val, labelled=True)
    return lambda model: validation_picture(model, tiles, data.crop, scale, device)


def _describe(run: Run, phase: Phase, batches: BatchStream, engine: Engine, unvalidated: bool) -> None:
    """Log what is about to be trained, and how."""
    ranks, passes, say = run.world.ranks, phase.micro_batches, run.journal.say
    say(
        f"{run.folder}: {phase.name}, {phase.steps} steps of {phase.batch} tiles on "
        f"{run.world.device} ({torch.get_num_threads()} threads), seed {run.config.seed}, "
        f"{len(batches.labelled)} labelled"
        + (f" and {len(batches.unlabelled)} unlabelled tiles" if batches.unlabelled is not None else " tiles")
    )
    for note in engine.notes:
        say(note)
    if ranks * passes > 1:
        say(
            f"batch of {phase.batch} = {ranks} ranks x {passes} forward passes x "
            f"{phase.batch // ranks // passes} tiles; OHEM and BatchNorm see one forward pass of all ranks"
        )
    if run.world.device.type == "cpu" and (crop := run.config.data.crop) > 256:
        say(
            f"note: data.crop={crop} on a CPU: a step with data.crop=128 takes about {(crop / 128) ** 2:.0f} times less"
        )
    if ranks > 1:
        say("weights and their average are compared between the ranks at each checkpoint")
    if unvalidated:
        say(f"{phase.name}: data.val is not given, so the last weights are kept, not the best")


def labelled_index(config: schema.RunConfig) -> DatasetIndex:
    """Read the labelled tiles' index; the validation set must have the same classes.

    Raises:
        ValueError: other classes there, or labels of one class only in either, unless ``data.one_class``.
    """
    data, index = config.data, read_index(config.data.labelled)
    faults = [one_class_labels("data.labelled", data.labelled, index)]
    if data.val is not None:
        val = factories.check_classes("data.val", data.val, index.classes, "data.labelled")
        faults.append(one_class_labels("data.val", data.val, val))
    if any(faults) and not data.one_class:
        raise ValueError(next(filter(None, faults)))
    return index
