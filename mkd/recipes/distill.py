"""One distillation stage: tune a teacher, freeze it, estimate the Fisher, train the student against it.

From command to loss: `launch/kd.py` calls `kd` here, which gives a `KdStep` to `Run.fit`; that opens the engine and the
checkpoints and calls the loop, `mkd.train.loop.fit`. The loop repeats the step, `mkd/train/steps/kd.py`, which sums the
losses; L_KD is `mkd/losses/distillation.py`.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from mkd.atomic import written_aside
from mkd.config import schema
from mkd.distributed.rank0 import check_same_file, run_on_rank0
from mkd.distributed.world import World
from mkd.labels import IGNORE
from mkd.loader.augment import Geometry, generators
from mkd.loader.batch import to_unit
from mkd.loader.loader import TileSet, in_order, rank_range
from mkd.losses.ewc import fisher_diagonal, stable_fisher
from mkd.model_folder import load_model, read_card
from mkd.models.architecture import Architecture
from mkd.models.build import build
from mkd.models.segmentation import SegmentationNetwork
from mkd.recipes import factories
from mkd.recipes.plain_folders import pack_plain_folders
from mkd.recipes.run import Run, join_ranks, labelled_index
from mkd.recipes.run_folder import is_run
from mkd.train.input_bands import band_fields, check_kind, other_bands
from mkd.train.steps.kd import Consolidation, KdStep
from mkd.train.steps.supervised import SupervisedStep

FISHER = "fisher.safetensors"  # in a run folder
SAY_EVERY = 30.0  # seconds between two lines about the Fisher


def kd(config: schema.KdRun) -> Path:
    """Run one stage: M -> new classifier -> M_T, frozen -> student M_S; return the run folder."""
    world, timer = join_ranks(config)
    given, config = config, pack_plain_folders(config, world)
    index = labelled_index(config)
    keeps = config.kd.ewc_weight > 0 or config.kd.student_init == "teacher"  # the source's own network
    from_source = None if config.kd.source is None or not keeps else read_card(config.kd.source).architecture
    origin = None if config.kd.source is None else read_card(config.kd.source).architecture
    bands = band_fields(index, origin, f"data.labelled={config.data.labelled}")
    arch = factories.architecture(
        config.model, config.data.crop, from_source, resumed=is_run(config), bands=bands
    )
    factories.settle(config.model, arch)
    with torch.device("meta"):
        build(arch, index.num_classes)  # an impossible network is refused before the run folder is made
    source = None
    if config.kd.source is not None:
        wanted = arch if keeps or origin is None else replace(origin, **bands)
        source, card = factories.load_checked("kd.source", config.kd.source, wanted)
        if config.kd.source_data is not None:
            data = factories.check_classes("kd.source_data", config.kd.source_data, card.classes, "kd.source")
            assert origin is not None
            check_kind(f"kd.source_data={config.kd.source_data}", data, origin.scale)
            # Needed after the teacher's phase; what is wrong with it is found now.
            factories.open_tiles(config.data, config.kd.source_data, labelled=True)
    with Run(config, world, index, timer, given) as run:
        if not run.ended():
            if config.kd.source is not None:
                run.inputs.check_model("kd.source", config.kd.source)
            if fault := factories.unfit_rates(
                arch if source is None else source.architecture, config.data.crop
            ):
                run.journal.say(f"warning: {fault}")
            _stage(config, run, arch, source)
    return run.folder


def _stage(config: schema.KdRun, run: Run, arch: Architecture, source: SegmentationNetwork | None) -> None:
    """Train teacher and student in an open run folder."""
    world, kd = run.world, config.kd
    # The two networks; weights of ImageNet that are not there or do not fit are found before the teacher's phase.
    student = _student(config, run.index.num_classes, arch)
    teacher = _teacher(config, run, arch, source)
    _start_as_teacher(config, student, teacher)
    # EWC, and the files that a resumed run must find unchanged.
    fixed_files = {
        "teacher/model.safetensors": check_same_file(world, run.folder / "teacher" / "model.safetensors")
    }
    ewc = None
    if kd.ewc_weight > 0:
        ewc = _consolidation(config, run, source, teacher, student)
        fixed_files[FISHER] = check_same_file(world, run.folder / FISHER)
    # The loop trains the student by this step; the weights with the best validation become the model folder.
    teacher.to(world.device)
    step = KdStep(
        student, teacher, factories.supervised_loss(config.ohem), kd.temperature, kd.weight, ewc, world
    )
    phase = run.phase("student", run.student_steps(), run.index.samples, config.optim.lr)
    phase = replace(phase, fixed_files=fixed_files)
    weights = run.fit(phase, step, run.batch_stream(kd.tiles == "all", arch.scale))
    _compare_with_teacher(run)
    run.write_model(student, weights, {"stage": "kd", "source": kd.source, "init": kd.student_init})


def _compare_with_teacher(run: Run) -> None:
    """Warn when the student ends below its teacher on the validation set."""
    teacher, student = run.journal.best_validation("teacher"), run.journal.best_validation("student")
    if teacher is not None and student is not None and student < teacher:
        run.journal.say(
            f"warning: the student's best validation mIoU, {student:.4f}, is below its teacher's, {teacher:.4f}: "
            f"{run.folder / 'teacher'} is the better model; give more steps=, or kd.student_init=teacher"
        )


def _teacher(
    config: schema.KdRun, run: Run, arch: Architecture, source: SegmentationNetwork | None
) -> SegmentationNetwork:
    """Return M_T, frozen: the source model with a new classifier, of which only that (or the head) was trained."""
    folder = run.folder / "teacher"
    if run_on_rank0(run.world, (folder / "model.yaml").is_file):
        return load_model(folder)[0].requires_grad_(False)
    # The source model with a new classifier; without one an ImageNet backbone with a random head.
    kd = config.kd
    if source is None:
        model = build(arch, run.index.num_classes, config.model.pretrained, seed=config.seed)
    else:
        model = copy.deepcopy(source)  # the Fisher still needs the source with its own classifier
        model.reset_classifier(run.index.num_classes, torch.Generator().manual_seed(config.seed))
    # Freeze all but what is tuned.
    tunes = kd.teacher_tunes or ("head" if source is None else "classifier")
    tuned = [model.classifier] if tunes == "classifier" else model.head_modules()
    model.requires_grad_(False)
    for module in tuned:
        module.requires_grad_(True)
    frozen = [m for m in model.children() if not any(m is t for t in tuned)]
    run.journal.say(
        f"teacher: {'ImageNet backbone' if source is None else kd.source}; only the {tunes} is trained"
    )
    # Train it as a phase of its own.
    step = SupervisedStep(model, factories.supervised_loss(config.ohem), frozen, run.world)
    lr = kd.teacher_lr if kd.teacher_lr is not None else 10 * config.optim.lr
    steps = factories.length(kd.teacher_epochs, run.index.samples, config.data.batch, usual=20, least=200)
    phase = run.phase("teacher", steps, run.index.samples, lr)
    model.load_state_dict(run.fit(phase, step, run.batch_stream(False, arch.scale)))
    run.write_model(
        model, model.state_dict(), {"stage": "teacher", "source": kd.source, "tunes": tunes}, "teacher"
    )
    return model.requires_grad_(False).eval()


def _student(config: schema.KdRun, num_classes: int, arch: Architecture) -> SegmentationNetwork:
    """Return the student's network with its start weights, but for those of the teacher, which is trained first."""
    pretrained = config.model.pretrained if config.kd.student_init == "imagenet" else None
    # Another seed than the teacher's, so that a random student does not start with the teacher's random head.
    return build(arch, num_classes, pretrained, seed=config.seed + 1)


def _start_as_teacher(
    config: schema.KdRun, student: SegmentationNetwork, teacher: SegmentationNetwork
) -> None:
    """Give the student the teacher's weights, where it is to start with them."""
    if config.kd.student_init == "teacher":
        student.load_state_dict(teacher.state_dict())


def _consolidation(
    config: schema.KdRun,
    run: Run,
    source: SegmentationNetwork | None,
    teacher: SegmentationNetwork,
    student: SegmentationNetwork,
) -> Consolidation:
    """Return EWC's anchor and Fisher; the Fisher is an artefact of the run folder.

    anchor=teacher: theta* = M_T, F of the source model on the source domain's labelled tiles. Without such tiles
    (stage 1 has none of ImageNet) F is that of M_T on this stage's labelled tiles.
    anchor=init: theta* = the student's start, F on this stage's labelled tiles.
    """
    # Whose Fisher, and on which tiles.
    kd = config.kd
    on_source = kd.anchor == "teacher" and source is not None and kd.source_data is not None
    model = student if kd.anchor == "init" else (source if on_source else teacher)
    data = str(kd.source_data) if on_source else config.data.labelled
    assert model is not None
    # Estimate it once; all ranks ask rank 0 whether the file exists, so that all of them take part or none.
    device = run.world.device
    if not run_on_rank0(run.world, (run.folder / FISHER).is_file):
        whose = {id(student): "the student's start", id(teacher): "the teacher"}.get(
            id(model), "the source model"
        )
        run.journal.say(f"EWC: Fisher of {whose} on up to {kd.fisher_tiles} tiles of {data}")
        key = "kd.source_data" if on_source else "data.labelled"
        _estimate_fisher(config, run, model.to(device), key, data)
        model.requires_grad_(model is student)
        if model is source:
            model.cpu()  # the GPU's memory is the student's from here on
    # The constants on the device; the Fisher is capped where SGD would diverge.
    anchor = student if kd.anchor == "init" else teacher
    weights = {n: p.detach().clone().to(device) for n, p in anchor.named_parameters()}
    loaded = {n: f.to(device) for n, f in load_file(run.folder / FISHER).items()}
    # A source classifier of other classes says nothing about this stage's.
    shared = {n: f for n, f in loaded.items() if not (on_source and n.startswith("classifier."))}
    if config.optim.name == "sgd":
        o = config.optim
        lr = {n: o.lr * (1.0 if n.startswith("backbone.") else o.head_factor) for n in shared}
        shared, capped = stable_fisher(shared, lr, o.momentum, kd.ewc_weight)
        run.journal.say(f"EWC: {100 * capped:.3f} % of the Fisher's entries capped for a stable step")
    return Consolidation(weights, shared, kd.ewc_weight)


def _estimate_fisher(config: schema.KdRun, run: Run, model: SegmentationNetwork, key: str, data: str) -> None:
    """Write the Fisher of a model on a data set into the run folder, estimated by all ranks together."""
    model.requires_grad_(True)
    tiles = factories.open_tiles(config.data, data, labelled=True)
    run.check_data(key, tiles)
    crops = _plain_crops(config, tiles, run.world, model.architecture, run.journal.say)
    fisher = fisher_diagonal(model, crops, total=run.world.all_reduce_sum)

    def write() -> None:
        with written_aside(run.folder / FISHER) as aside:
            aside.write_bytes(save({k: v.cpu().contiguous() for k, v in fisher.items()}))

    run_on_rank0(run.world, write)  # the others wait until the file exists


def _plain_crops(
    config: schema.KdRun, tiles: TileSet, world: World, plan: Architecture, say: Callable[[str], None]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield this rank's part of up to ``kd.fisher_tiles`` tiles, cropped to the training size and not scaled.

    Tiles of the source's bands become those of the stage's.
    """
    own = plan
    if (tiles.index.bands, tiles.index.dtype) != plan.scale.kind:
        assert config.kd.source is not None
        own = read_card(config.kd.source).architecture
    crop = Geometry(config.data.crop, (1.0, 1.0), aerial=False)
    mine = rank_range(min(len(tiles), config.kd.fisher_tiles), world.rank, world.ranks)
    said = time.monotonic()
    for done, batch in enumerate(in_order(tiles, 1, samples=mine)):
        if time.monotonic() - said > SAY_EVERY:
            said = time.monotonic()
            say(f"EWC: Fisher, {done} of {len(mine)} tiles")
        batch = batch.to(world.device)
        draws = generators(config.seed, 0, batch.ids)
        images, labels = crop(batch.pixels(own.scale), batch.labels, draws)
        if images.dtype != torch.uint8:
            labels = labels.masked_fill(images.isnan().any(dim=1), IGNORE)
        images = to_unit(images)
        yield (images if own is plan else other_bands(images, own, plan)), labels
