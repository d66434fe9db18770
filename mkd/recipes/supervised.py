"""The baseline without distillation: config -> run folder with a model folder in it."""

from pathlib import Path

import torch

from mkd.config import schema
from mkd.model_folder import read_card
from mkd.models.build import build
from mkd.recipes import factories
from mkd.recipes.plain_folders import pack_plain_folders
from mkd.recipes.run import Run, join_ranks, labelled_index
from mkd.recipes.run_folder import is_run
from mkd.train.input_bands import band_fields
from mkd.train.steps.supervised import SupervisedStep


def supervised(config: schema.SupervisedRun) -> Path:
    """Train the baseline without distillation; return the run folder."""
    world, timer = join_ranks(config)
    given, config = config, pack_plain_folders(config, world)
    index = labelled_index(config)
    scratch = config.student_init in ("random", "imagenet")
    source = None if scratch else read_card(config.student_init).architecture
    bands = band_fields(index, source, f"data.labelled={config.data.labelled}")
    arch = factories.architecture(config.model, config.data.crop, source, resumed=is_run(config), bands=bands)
    factories.settle(config.model, arch)
    if scratch:
        pretrained = config.model.pretrained if config.student_init == "imagenet" else None
        model = build(arch, index.num_classes, pretrained, seed=config.seed)
    else:
        model, card = factories.load_checked("student_init", config.student_init, arch)
        if card.classes != tuple(index.classes):  # transfer learning: the classes are this data set's
            model.reset_classifier(index.num_classes, torch.Generator().manual_seed(config.seed))
    with Run(config, world, index, timer, given) as run:
        if run.ended():
            return run.folder
        if not scratch:
            run.inputs.check_model("student_init", config.student_init)
        if config.student_init == "random":
            run.journal.say(
                "student: starts from random weights, as student_init=random or model.pretrained=null asks"
            )
        step = SupervisedStep(model, factories.supervised_loss(config.ohem), world=world)
        phase = run.phase("student", run.student_steps(), index.samples, config.optim.lr)
        weights = run.fit(phase, step, run.batch_stream(unlabelled=False, scale=arch.scale))
        run.write_model(model, weights, {"stage": "supervised", "start": config.student_init})
    return run.folder
