"""The baseline, and what all training runs share: config -> run folder with a model folder in it."""

from pathlib import Path

import torch
from torch import Tensor

from mkd.build import parts
from mkd.build.run_folder import open_run, versions
from mkd.config import schema
from mkd.data.index import DatasetIndex, read_index
from mkd.dist.world import World, find_world
from mkd.models.deeplab import DeepLabV3Plus, build
from mkd.store.model_folder import ModelCard, save_model
from mkd.train.checkpoint import Checkpoints
from mkd.train.health import Health
from mkd.train.journal import Journal
from mkd.train.loop import Phase, Step, fit
from mkd.train.supervised_step import SupervisedStep
from mkd.train.views import Feed


def supervised(config: schema.SupervisedRun) -> Path:
    """Train the baseline without distillation; return the run folder."""
    world = find_world(config.device)
    arch = parts.architecture(config.model)
    index = labelled_index(config)
    if config.student_init in ("random", "imagenet"):
        pretrained = config.model.pretrained if config.student_init == "imagenet" else None
        model = build(arch, index.num_classes, pretrained, seed=config.seed)
    else:
        model, card = parts.load_checked("student_init", config.student_init, arch)
        parts.check_classes("data.labelled", config.data.labelled, card.classes, "student_init")
    run = Run(config, world, index)
    if run.ended():
        return run.folder
    step = SupervisedStep(model, parts.ohem(config.ohem))
    phase = parts.phase(config, "student", config.epochs, config.steps, index.samples, config.optim.lr)
    weights = run.fit(phase, step, run.feed(unlabelled=False))
    run.write_model(model, weights, {"stage": "supervised", "start": config.student_init})
    return run.folder


class Run:
    """One run folder with its journal, and what all phases in it share.

    Args:
        config: of the run.
        world: this process's place.
        index: of the labelled tiles: classes and palette of the model.

    Raises:
        ValueError: the folder belongs to another run, or the validation classes differ.
    """

    def __init__(self, config: schema.RunConfig, world: World, index: DatasetIndex) -> None:
        """Open the folder; no tile is read yet."""
        self.config, self.world, self.index = config, world, index
        self.folder = open_run(config)
        self.journal = Journal(self.folder, tuple(index.classes))

    def ended(self) -> bool:
        """Whether the run's model folder is there; says so."""
        done = (self.folder / "model" / "model.yaml").is_file()
        if done:
            self.journal.say(f"{self.folder}: this run has ended; its model is {self.folder / 'model'}")
        return done

    def feed(self, unlabelled: bool) -> Feed:
        """Open the training tiles; ``unlabelled`` adds the second stream."""
        return parts.feed(self.config.data, self.config.seed, self.world, unlabelled, self.folder)

    def checkpoints(self, phase: Phase) -> Checkpoints:
        """Return the checkpoints of a phase."""
        return Checkpoints(self.folder / "checkpoints" / phase.name)

    def fit(
        self, phase: Phase, step: Step, feed: Feed, validated: bool = True, health: Health | None = None
    ) -> dict[str, Tensor]:
        """Train one phase and return the chosen weights."""
        assert isinstance(step.model, DeepLabV3Plus)
        engine, optimizer = parts.engine_and_optimizer(self.config, step.model, self.world, phase.lr)
        validate = parts.validator(self.config.data, self.world) if validated else None
        threads = torch.get_num_threads()
        self.journal.say(
            f"{self.folder}: {phase.name}, {phase.steps} steps of {self.config.data.batch} tiles on "
            f"{self.world.device} ({threads} threads), seed {self.config.seed}, {len(feed.labelled)} labelled"
            + (f" and {len(feed.unlabelled)} unlabelled tiles" if feed.unlabelled is not None else " tiles")
        )
        if validate is None and validated:
            self.journal.say(
                f"{phase.name}: data.val is not given, so the last weights are kept, not the best"
            )
        try:
            return fit(
                phase,
                step,
                feed,
                engine,
                optimizer,
                self.checkpoints(phase),
                self.journal,
                validate,
                health,
            )
        finally:
            self.journal.end()

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
        save_model(self.folder / name, weights, card)


def labelled_index(config: schema.RunConfig) -> DatasetIndex:
    """Read the labelled tiles' index; the validation set must have the same classes."""
    index = read_index(config.data.labelled)
    if config.data.val is not None:
        parts.check_classes("data.val", config.data.val, index.classes, "data.labelled")
    return index
