"""The semi-supervised stage: config -> run folder with a model folder in it."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mkd.build import parts
from mkd.build.train import Run, labelled_index
from mkd.config import schema
from mkd.dist.engine import autocast
from mkd.dist.world import find_world
from mkd.models.deeplab import DeepLabV3Plus
from mkd.semi.entropy import TileLimit
from mkd.store.model_folder import ModelCard
from mkd.teacher.api import Teacher
from mkd.teacher.local import LocalTeacher
from mkd.train.health import Collapsed, Health
from mkd.train.ledger import Ledger
from mkd.train.loop import Phase
from mkd.train.pseudo_feed import PseudoFeed
from mkd.train.semi_step import SemiStep
from mkd.train.views import Feed


def semi(config: schema.SemiRun) -> Path:
    """Train the semi-supervised stage; return the run folder."""
    world = find_world(config.device)
    index = labelled_index(config)
    s = config.semi
    model, card = parts.load_checked("semi.start", s.start)
    parts.check_classes("data.labelled", config.data.labelled, card.classes, f"semi.start={s.start}")
    if config.data.pseudo is not None:
        parts.check_classes("data.pseudo", config.data.pseudo, card.classes, f"semi.start={s.start}")
    run = Run(config, world, index)
    if run.ended():
        return run.folder
    model.to(world.device)
    feed = run.feed(unlabelled=True)
    assert feed.unlabelled is not None
    tiles = len(feed.unlabelled)
    phase = parts.phase(config, "semi", config.epochs, config.steps, tiles, config.optim.lr)
    who = config.data.pseudo or ", ".join(config.teacher.endpoints) or "the local teacher"
    run.journal.say(f"{run.folder}: {tiles} unlabelled tiles, labelled by {who}")
    teacher = _teacher(config, model, card, run)
    pseudo = _pseudo_feed(config, run, phase, feed, teacher)
    result: nn.Module = teacher.model if s.result == "teacher" else model
    step = SemiStep(model, pseudo, result, parts.ohem(config.ohem), s.weight)
    try:
        weights = _fit(run, phase, step, replace(feed, unlabelled=None))
    finally:
        pseudo.close()
        teacher.close()
    run.write_model(model, weights, {"stage": "semi", "start": s.start, "result": s.result})
    return run.folder


def _teacher(config: schema.SemiRun, model: DeepLabV3Plus, card: ModelCard, run: Run) -> Teacher:
    """Return who holds the EMA and labels with it: this process, or services that get it."""
    s, t = config.semi, config.teacher
    limit = TileLimit(s.tile_entropy, s.drop_start, s.drop_end)
    precision = partial(autocast, run.world.device)
    if t.kind != "service":
        return LocalTeacher(model, s.ema_decay, s.confidence, limit, precision)
    # Here, because most runs need no pyarrow.
    from mkd.build.teacher import WEIGHTS, identity_of, read_pem
    from mkd.teacher.access import read_token
    from mkd.teacher.calls import Access
    from mkd.teacher.client import RemoteTeacher, Terms, new_session

    terms = Terms(
        endpoints=t.endpoints,
        session=new_session(),
        publishes=run.world.first,
        depth=t.depth,
        sync_every=t.sync_every,
        max_age=t.max_age,
        patience=t.patience,
        fallback=t.fallback == "local",
        weights_file=run.folder / WEIGHTS,
    )
    access = Access(identity_of(card), read_token(t.token_file), read_pem("teacher.tls_ca", t.tls_ca))
    return RemoteTeacher(model, s.ema_decay, s.confidence, limit, precision, terms, access, run.journal.say)


def _pseudo_feed(config: schema.SemiRun, run: Run, phase: Phase, feed: Feed, teacher: Teacher) -> PseudoFeed:
    good = run.checkpoints(phase).good.is_file if config.semi.on_collapse == "rollback" else None
    health = Health(run.index.classes, run.index.histogram, run.journal.say, teacher.tally, good)
    ledger = Ledger(run.folder / f"ledger-{run.world.rank}.jsonl") if config.teacher.ledger else None
    size = config.data.batch // run.world.ranks
    return PseudoFeed(feed.candidates, size, teacher, health, run.journal.say, ledger)


def _fit(run: Run, phase: Phase, step: SemiStep, feed: Feed) -> dict[str, Tensor]:
    """Train to the end; at a collapse go back to the good checkpoint and on with half the weight of L_cons."""
    health = step.pseudo.health
    while True:
        try:
            return run.fit(phase, step, feed, health=health)
        except Collapsed as collapse:
            count = health.rollbacks + 1
            at = run.checkpoints(phase).go_back(partial(_with_rollbacks, count=count))
            run.journal.say(f"{collapse}; rollback {count} to step {at}, semi.weight is halved from there on")


def _with_rollbacks(state: dict[str, Any], count: int) -> None:
    """Write the number of rollbacks into a checkpoint: a good one does not know those that came after it."""
    state["step_state"]["health"]["rollbacks"] = count
