"""The baseline without distillation: config -> run folder with a model folder in it."""

from pathlib import Path

from mkd.config import schema
from mkd.models.deeplab import build
from mkd.recipes import factories
from mkd.recipes.run import Run, join_ranks, labelled_index
from mkd.train.steps.supervised import SupervisedStep


def supervised(config: schema.SupervisedRun) -> Path:
    """Train the baseline without distillation; return the run folder."""
    world, timer = join_ranks(config)
    arch = factories.architecture(config.model)
    index = labelled_index(config)
    if config.student_init in ("random", "imagenet"):
        pretrained = config.model.pretrained if config.student_init == "imagenet" else None
        model = build(arch, index.num_classes, pretrained, seed=config.seed)
    else:
        model, card = factories.load_checked("student_init", config.student_init, arch)
        factories.check_classes("data.labelled", config.data.labelled, card.classes, "student_init")
    with Run(config, world, index, timer) as run:
        if run.ended():
            return run.folder
        step = SupervisedStep(model, factories.ohem(config.ohem), world=world)
        phase = run.phase("student", config.epochs, config.steps, index.samples, config.optim.lr)
        weights = run.fit(phase, step, run.batch_stream(unlabelled=False))
        run.write_model(model, weights, {"stage": "supervised", "start": config.student_init})
    return run.folder
