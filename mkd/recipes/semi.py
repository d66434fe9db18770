"""The semi-supervised stage: config -> run folder with a model folder in it."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mkd.cli.log_lines import route_log_lines
from mkd.config import schema
from mkd.distributed.engine import autocast
from mkd.distributed.rank0 import run_on_rank0
from mkd.distributed.world import TIMEOUT
from mkd.loader.augment import StrongView, strong_view
from mkd.model_folder import ModelCard
from mkd.models.segmentation import SegmentationNetwork
from mkd.recipes import factories
from mkd.recipes.plain_folders import pack_plain_folders
from mkd.recipes.run import Run, join_ranks, labelled_index
from mkd.semi.entropy import TileLimit
from mkd.teacher.api import Teacher
from mkd.teacher.local import LocalTeacher
from mkd.train.batches import BatchStream
from mkd.train.phase import Phase
from mkd.train.pseudo.audit_log import AuditLog
from mkd.train.pseudo.feed import PseudoFeed
from mkd.train.pseudo.monitor import Collapsed, PseudoLabelMonitor
from mkd.train.steps.semi import SemiStep


def semi(config: schema.SemiRun) -> Path:
    """Train the semi-supervised stage; return the run folder."""
    world, timer = join_ranks(config)
    given, config = config, pack_plain_folders(config, world)
    index, start = labelled_index(config), config.semi.start
    model, card = factories.load_checked("semi.start", start)
    factories.check_classes("data.labelled", config.data.labelled, card.classes, f"semi.start={start}")
    if config.data.pseudo is not None:
        factories.check_classes("data.pseudo", config.data.pseudo, card.classes, f"semi.start={start}")
    # What the threads of the teachers' side report is about this rank alone.
    with Run(config, world, index, timer, given) as run, route_log_lines(run.say, "mkd.teacher"):
        if not run.ended():
            run.inputs.check_model("semi.start", start)
            if fault := factories.unfit_rates(model.architecture, config.data.crop):
                run.journal.say(f"warning: {fault}")
            _stage(config, run, model, card)
    return run.folder


def _stage(config: schema.SemiRun, run: Run, model: SegmentationNetwork, card: ModelCard) -> None:
    """Train in an open run folder."""
    s, world = config.semi, run.world
    model.to(world.device)  # before the teacher's copy is made
    batches = run.batch_stream(unlabelled=True, scale=card.architecture.scale)
    assert batches.unlabelled is not None
    tiles = len(batches.unlabelled)
    usual = min(100, s.views / tiles)
    steps = config.steps or factories.length(config.epochs, tiles, config.data.batch, usual, least=3000)
    phase = run.phase("semi", steps, tiles, config.optim.lr)
    phase = replace(phase, plateau=s.plateau, validates_start=True)
    run.journal.say(f"{run.folder}: {tiles} unlabelled tiles, {_labelled_by(config)}")
    decay = s.ema_decay if s.ema_decay is not None else ema_decay(phase.steps)
    bands = (
        None if batches.scale.plain and not batches.unlabelled.index.missing_pixels else batches.scale.bands
    )
    teacher = _teacher(config, model, card, run, decay, bands)
    pseudo = _pseudo_feed(config, run, phase, batches, teacher)
    result: nn.Module = teacher.model if s.result == "teacher" else model
    step = SemiStep(
        model,
        pseudo,
        result,
        factories.supervised_loss(config.ohem),
        s.weight,
        average=s.average,
        strong_views=s.strong_views,
        feature_dropout=s.feature_dropout,
        cutmix=s.cutmix,
        paste=s.paste,
        world=world,
        strong_view=_strong_view(batches),
    )
    try:
        weights = _fit(run, phase, step, replace(batches, unlabelled=None))
    finally:
        pseudo.close()
        teacher.close()
    run.write_model(model, weights, {"stage": "semi", "start": s.start, "result": s.result})


def _labelled_by(config: schema.SemiRun) -> str:
    """Return who labels the unlabelled tiles, for people."""
    if config.semi.weight == 0:
        return "none of which is used (semi.weight=0); no teacher is asked"
    return f"labelled by {config.data.pseudo or ', '.join(config.teacher.endpoints) or 'the local teacher'}"


def _strong_view(batches: BatchStream) -> StrongView:
    """Return the strong view of the bands; pixels may be missing where a data set says so."""
    assert batches.unlabelled is not None
    missing = [tiles.index.missing_pixels for tiles in (batches.labelled, batches.unlabelled)]
    return strong_view(batches.scale.plain, holes=any(missing))


def ema_decay(steps: int) -> float:
    """Return the EMA's decay for a run's length: its memory, 1 / (1 - a) steps, is a small part of the run.

    Source: published settings by run length, 0.99 for some 10,000 steps, 0.996 for some 40,000, 0.999 beyond.
    """
    return 0.99 if steps < 10_000 else 0.996 if steps < 40_000 else 0.999


def _teacher(
    config: schema.SemiRun,
    model: SegmentationNetwork,
    card: ModelCard,
    run: Run,
    decay: float,
    bands: int | None,
) -> Teacher:
    """Return who holds the EMA and labels with it: this process, or services that get it.

    Weak views of float32 have ``bands``; None: they are of uint8.
    """
    s, t = config.semi, config.teacher
    limit = TileLimit(s.tile_entropy, s.drop_start, s.drop_end)
    precision = partial(autocast, run.world.device)
    if t.kind != "service" or s.weight == 0:  # the control asks for no label, so nobody is called
        return LocalTeacher(model, decay, s.confidence, limit, precision, run.world.gather, s.teacher_views)
    if run.world.ranks > 1 and t.patience > 0.9 * TIMEOUT.total_seconds():
        raise ValueError(
            f"teacher.patience={t.patience:.0f}: the other ranks wait {TIMEOUT.total_seconds():.0f} s for one that "
            f"waits for a teacher; at most {0.9 * TIMEOUT.total_seconds():.0f} is allowed with several ranks"
        )
    # Here, because most runs need no pyarrow.
    from mkd.recipes.teacher_service import WEIGHTS, identity_of, read_pem
    from mkd.teacher.client.client_config import ClientConfig
    from mkd.teacher.client.flight_client import Access
    from mkd.teacher.client.remote_teacher import RemoteTeacher, new_session

    client = ClientConfig(
        endpoints=t.endpoints,
        session=run.world.broadcast(new_session()),
        rank=run.world.rank,
        depth=t.depth,
        sync_every=t.sync_every,
        max_age=t.max_age,
        patience=t.patience,
        fallback=t.fallback == "local",
        weights_file=run.folder / WEIGHTS,
    )
    tls = read_pem("teacher.tls_ca", t.tls_ca)
    views = s.teacher_views != "none"
    access = Access(identity_of(card), _token(config, run), tls, bands=bands, views=views)
    return RemoteTeacher(
        model,
        client,
        access,
        max_decay=decay,
        confidence=s.confidence,
        views=s.teacher_views,
        tile_limit=limit,
        autocast=precision,
        gather=run.world.gather,
        stop=run.stop.is_set_here,
    )


def _token(config: schema.SemiRun, run: Run) -> str | None:
    """Return the token that services ask for: the one given, else RUN.token, which is made like at a teacher."""
    from mkd.teacher.auth import TOKEN_VARIABLE, make_token, read_token, run_token

    if config.teacher.token_file is not None or TOKEN_VARIABLE in os.environ:
        return read_token(config.teacher.token_file)
    path = run_token(run.folder)
    made = make_token(path)
    run.journal.say(f"teachers are asked with the token in {path} ({'made now' if made else 'it was there'})")
    return read_token(str(path))


def _pseudo_feed(
    config: schema.SemiRun, run: Run, phase: Phase, batches: BatchStream, teacher: Teacher
) -> PseudoFeed:
    """Return the feed of pseudo-labelled tiles, with the monitor of its teacher."""
    good = run.checkpoints(phase).good.is_file if config.semi.on_collapse == "rollback" else None
    world = run.world
    control = config.semi.confidence >= 1  # with semi.weight=0 nothing is reported at all
    monitor = PseudoLabelMonitor(
        run.index.classes, run.index.histogram, teacher.stats, world, good, control=control
    )
    audit_log = AuditLog(run.folder / f"ledger-{world.rank}.jsonl") if config.teacher.ledger else None
    size = config.data.batch // world.ranks
    return PseudoFeed(batches.candidates, size, teacher, monitor, world, audit_log)


def _fit(run: Run, phase: Phase, step: SemiStep, batches: BatchStream) -> dict[str, Tensor]:
    """Train to the end; at a collapse go back to the good checkpoint and on with half the weight of L_cons."""
    monitor = step.pseudo.monitor
    while True:
        try:
            return run.fit(phase, step, batches, monitor=monitor if step.weight > 0 else None)
        except Collapsed as collapse:
            count = monitor.rollbacks + 1
            change = partial(_with_rollbacks, count=count)
            # All ranks wait until rank 0 has put the good checkpoint in the latest one's place.
            at = run_on_rank0(run.world, partial(run.checkpoints(phase).go_back, change))
            run.journal.say(f"{collapse}; rollback {count} to step {at}, semi.weight is halved from there on")


def _with_rollbacks(state: dict[str, Any], count: int) -> None:
    """Write the number of rollbacks into a checkpoint: a good one does not know those that came after it."""
    state["step_state"]["health"]["rollbacks"] = count
