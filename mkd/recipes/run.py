"""The baseline, and what all training runs share: config -> run folder with a model folder in it."""

import os
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from mkd.cli.exit import node
from mkd.config import schema
from mkd.config.load import to_yaml
from mkd.dataset.index import DatasetIndex, read_index
from mkd.distributed.engine import Engine
from mkd.distributed.rank0 import run_on_rank0
from mkd.distributed.world import World, find_world
from mkd.model_folder import ModelCard, save_model
from mkd.models.deeplab import DeepLabV3Plus, build
from mkd.recipes import factories
from mkd.recipes.run_folder import difference, open_run, versions
from mkd.train.batches import BatchStream
from mkd.train.loop import fit
from mkd.train.phase import Phase, Step
from mkd.train.pseudo.monitor import PseudoLabelMonitor
from mkd.train.run.checkpoint import Checkpoints
from mkd.train.run.journal import Journal
from mkd.train.run.run_lock import RunLock
from mkd.train.run.startup_timer import StartupTimer
from mkd.train.run.stop_request import StopRequest, end_with_torchrun
from mkd.train.steps.supervised import SupervisedStep


def supervised(config: schema.SupervisedRun) -> Path:
    """Train the baseline without distillation; return the run folder."""
    world, clock = join_ranks(config)
    arch = factories.architecture(config.model)
    index = labelled_index(config)
    if config.student_init in ("random", "imagenet"):
        pretrained = config.model.pretrained if config.student_init == "imagenet" else None
        model = build(arch, index.num_classes, pretrained, seed=config.seed)
    else:
        model, card = factories.load_checked("student_init", config.student_init, arch)
        factories.check_classes("data.labelled", config.data.labelled, card.classes, "student_init")
    with Run(config, world, index, clock) as run:
        if run.ended():
            return run.folder
        step = SupervisedStep(model, factories.ohem(config.ohem), world=world)
        phase = run.phase("student", config.epochs, config.steps, index.samples, config.optim.lr)
        weights = run.fit(phase, step, run.batch_stream(unlabelled=False))
        run.write_model(model, weights, {"stage": "supervised", "start": config.student_init})
    return run.folder


def join_ranks(config: schema.RunConfig) -> tuple[World, StartupTimer]:
    """Find this process's place among the ranks, on a clock that runs since the start."""
    clock = StartupTimer()
    end_with_torchrun()
    world = find_world(config.device)
    if world.ranks > 1 and world.local_rank == 0:
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        print(f"node {node()}: ranks {world.rank} to {world.rank + here - 1} of {world.ranks}", flush=True)
    clock.done("ranks")
    return world, clock


class Run:
    """One run folder with its journal, and what all phases in it share.

    A context in which the folder is this run's, so that no other process writes into it, and wishes to stop are heard.

    Args:
        config: of the run.
        world: this process's place; rank 0 alone writes.
        index: of the labelled tiles: classes and palette of the model.
        clock: of the start.

    Raises:
        ValueError: the folder belongs to another run, the batch cannot be shared by the ranks, or the ranks were
            started with different configs.
    """

    def __init__(
        self, config: schema.RunConfig, world: World, index: DatasetIndex, clock: StartupTimer
    ) -> None:
        """Open the folder; no tile is read yet."""
        self.config, self.world, self.index, self.clock = config, world, index, clock
        factories.micro_batches(config.data, world.ranks)
        _check_same(config, world)
        self.folder = Path(run_on_rank0(world, lambda: str(open_run(config))))
        self.journal = Journal(self.folder, tuple(index.classes), world.is_main)
        self.stop = StopRequest(world, self.folder / "stop")
        self.owner = RunLock(self.folder / "owner.json")

    def __enter__(self) -> "Run":
        """Become the folder's owner, unless the run has ended, and hear wishes to stop from now on.

        Raises:
            ValueError: the process that writes the folder lives.
        """
        run_on_rank0(self.world, lambda: None if self._has_model() else self.owner.acquire(self.journal.say))
        self.stop.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hear them no more, and give the folder up."""
        self.stop.__exit__(kind, error, trace)
        if self.world.is_main:
            self.owner.release()

    def ended(self) -> bool:
        """Whether the run's model folder is there; says so."""
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

    def batch_stream(self, unlabelled: bool) -> BatchStream:
        """Open the training tiles; ``unlabelled`` adds the second stream."""
        self.clock.done("model")
        feed = factories.batch_stream(self.config.data, self.config.seed, self.world, unlabelled, self.folder)
        self.clock.done("data")
        return feed

    def phase(self, name: str, epochs: float, steps: int | None, tiles: int, lr: float) -> Phase:
        """Return one phase of the loop; ``steps`` overrides ``epochs`` passes over ``tiles``."""
        return factories.phase(self.config, name, epochs, steps, tiles, lr, self.world.ranks)

    def checkpoints(self, phase: Phase) -> Checkpoints:
        """Return the checkpoints of a phase."""
        folder, c = self.folder / "checkpoints" / phase.name, self.config
        background = self.world.device.type == "cuda"
        return Checkpoints(folder, self.world.is_main, c.keep_every, c.keep, background, self.owner.lost)

    def fit(
        self,
        phase: Phase,
        step: Step,
        feed: BatchStream,
        validated: bool = True,
        health: PseudoLabelMonitor | None = None,
    ) -> dict[str, Tensor]:
        """Train one phase and return the chosen weights."""
        assert isinstance(step.model, DeepLabV3Plus)
        what = f"{phase.name} phase: the weights at its start"
        self.world.check_equal([t.to(self.world.device) for t in step.model.state_dict().values()], what)
        streams = 1 if health is None and feed.unlabelled is None else 2
        engine = factories.engine(self.config, step.model, self.world, phase, streams)
        validate = factories.validator(self.config.data, self.world) if validated else None
        self._introduce(phase, feed, engine, validated and validate is None)
        self.clock.done("model")
        checkpoints = self.checkpoints(phase)
        try:
            return fit(
                phase,
                step,
                feed,
                engine,
                checkpoints,
                self.journal,
                validate,
                health,
                self.stop,
                self.clock,
            )
        finally:
            self.journal.end()

    def _introduce(self, phase: Phase, feed: BatchStream, engine: Engine, unvalidated: bool) -> None:
        """Say what is about to be trained, and how."""
        ranks, passes, say = self.world.ranks, phase.micro_batches, self.journal.say
        say(
            f"{self.folder}: {phase.name}, {phase.steps} steps of {phase.batch} tiles on "
            f"{self.world.device} ({torch.get_num_threads()} threads), seed {self.config.seed}, "
            f"{len(feed.labelled)} labelled"
            + (f" and {len(feed.unlabelled)} unlabelled tiles" if feed.unlabelled is not None else " tiles")
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
        model: DeepLabV3Plus,
        weights: dict[str, Tensor],
        provenance: dict[str, object],
        name: str = "model",
    ) -> None:
        """Write the run's model folder; for the last phase this ends the run."""
        about = {
            **provenance,
            "seed": self.config.seed,
            "data": self.config.data.labelled,
            "versions": versions(),
        }
        card = ModelCard(model.architecture, tuple(self.index.classes), tuple(self.index.palette), about)
        run_on_rank0(self.world, lambda: save_model(self.folder / name, weights, card))


def _check_same(config: schema.RunConfig, world: World) -> None:
    """Refuse ranks that were started with different commands."""
    mine = to_yaml(config)
    if changed := difference(world.broadcast(mine), mine):
        raise ValueError(
            f"rank {world.rank} was started with another config than rank 0 ({changed.replace('there', 'rank 0:')}); "
            "start all ranks by the same command"
        )


def labelled_index(config: schema.RunConfig) -> DatasetIndex:
    """Read the labelled tiles' index; the validation set must have the same classes."""
    index = read_index(config.data.labelled)
    if config.data.val is not None:
        factories.check_classes("data.val", config.data.val, index.classes, "data.labelled")
    return index
