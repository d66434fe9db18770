"""The product's own training run with a conductor between its steps: config, recipe, loop and step of launch/*.py."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mkd.benchmarks.data.tiles import make_labelled_set
from mkd.benchmarks.network import write_random_model
from mkd.benchmarks.settings import StepSpeedRun
from mkd.config.load import load
from mkd.config.schema import KdRun, RunConfig, SemiRun, SupervisedRun
from mkd.dataset.index import read_index
from mkd.recipes import run as run_module
from mkd.recipes.distill import kd
from mkd.recipes.semi import semi
from mkd.recipes.supervised import supervised
from mkd.train.batches import StepBatch
from mkd.train.loop import Batches, fit
from mkd.train.run.startup_timer import StartupTimer
from mkd.train.run.stop_request import StopRequest
from mkd.train.trainer import Trainer

STAGES: dict[str, tuple[type[RunConfig], Callable[[Any], Path]]] = {
    "supervised": (SupervisedRun, supervised),
    "kd": (KdRun, kd),
    "semi": (SemiRun, semi),
}
ENDLESS = 1_000_000  # steps: the conductor ends the run

# Called before the loop starts; each item of the iterator lets it do one step, the iterator's end ends the run.
Conductor = Callable[[Trainer], Iterator[None]]


class _Ended(Exception):
    """The conductor has ended, and with it the run."""


def stage_config(config: StepSpeedRun, stage: str, out: str) -> RunConfig:
    """Return the config of a stage's run, as its launch script would; makes tiles and start model where they miss.

    A KD stage first tunes its teacher, for one step, and estimates the Fisher on four tiles: neither is measured.
    """
    data = config.data or drawn_tiles(config)
    start, index = f"{config.out}/start-{config.model}", read_index(data)
    write_random_model(start, config.model, index.classes, index.palette)
    given = [f"out={out}", f"data.labelled={data}", f"data.crop={config.crop}", f"data.batch={config.batch}"]
    given += [f"data.workers={config.workers}", f"device={config.device or 'null'}"]
    given += [f"{key}={ENDLESS}" for key in ("steps", "save_every", "val_every")]
    network = [f"model={config.model}", "model.pretrained=null"]
    match stage:
        case "supervised":
            given += [*network, f"student_init={start}"]
        case "kd":
            given += [*network, f"kd.source={start}", "kd.teacher_epochs=0.001", "kd.fisher_tiles=4"]
        case "semi":
            # Random weights are sure of nothing: without a threshold as many pixels count as in a real run.
            given += [f"semi.start={start}", f"data.unlabelled={data}", "semi.confidence=0"]
    return load(STAGES[stage][0], stage, [*given, *config.extra])


def drawn_tiles(config: StepSpeedRun) -> str:
    """Return the data set of procedural landscapes whose tiles are as large as the crop; drawn where it misses."""
    return make_labelled_set(Path(config.out) / f"tiles-{config.crop}", config.crop)


def conduct(stage: str, run: RunConfig, conductor: Conductor) -> None:
    """Run a stage by its recipe, as far as the conductor goes.

    Args:
        stage: its name.
        run: its config; ``out`` is a new folder.
        conductor: of the phase that trains the student; the tuning of a KD stage's teacher goes on without one.
    """

    def conducted_fit(trainer: Trainer, batches: Batches, stop: StopRequest, timer: StartupTimer) -> Any:
        if trainer.phase.name == "teacher":
            return fit(trainer, batches, stop, timer)

        steps = conductor(trainer)

        def conducted(start: int, end: int) -> Iterator[StepBatch]:
            source = batches(start, end)
            for _ in steps:
                yield next(source)
            raise _Ended

        return fit(trainer, conducted, stop, timer)

    with patch.object(run_module, "fit", conducted_fit), suppress(_Ended):
        STAGES[stage][1](run)
