"""What ranks get from pseudo-label feeds that share a global batch, in a form that can be compared and saved."""

import copy
import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mkd.distributed.engine import Engine
from mkd.models.dropout import seed_dropout
from mkd.semi.entropy import TileLimit
from mkd.teacher.api import TeachersGone
from mkd.teacher.local import LocalTeacher
from mkd.train.batches import StepBatch
from mkd.train.pseudo.audit_log import AuditLog
from mkd.train.pseudo.feed import PseudoFeed
from mkd.train.steps.semi import SemiStep
from mkd.train.steps.supervised import SupervisedLoss
from tests.helpers.training.nets import tiny_net
from tests.helpers.training.pseudo import TILES, Scripted, monitor_of, numbered, semi_step_of
from tests.helpers.training.runs import feed_of


@dataclass
class Case:
    """A script for the teachers, the global batch, how far they work ahead, and whether labels are stored."""

    pattern: list
    batch: int
    depth: int = 0
    stored: bool = False


class Once:
    """Gives one batch that is known."""

    def __init__(self, batch, size):
        self.batch, self.size = batch, size

    def __call__(self, progress):
        return self.batch


def feed_on(world, case, folder=None, gone=None):
    """Make a rank's feed; its audit log lies in `folder`."""
    size = case.batch // world.ranks
    teacher = Scripted(case.pattern, case.depth, gone, world.gather)
    audit_log = None if folder is None else AuditLog(Path(folder) / f"ledger-{world.rank}.jsonl")
    monitor = monitor_of(teacher, world=world)
    return PseudoFeed(numbered(size, world, case.stored), size, teacher, monitor, world, audit_log)


def one_step(feed):
    """Take one batch and make its strong views."""
    batch = feed(0.5)
    draws = torch.tensor([copy.deepcopy(g).random() for g in batch.generators], dtype=torch.float64)

    def views_of(count):
        given = replace(batch, generators=copy.deepcopy(batch.generators))
        loss, more = SupervisedLoss(0.7, 0.1), {"world": feed.world, "strong_views": count}
        step = SemiStep(nn.Identity(), Once(given, feed.size), nn.Identity(), loss, 1.0, **more)
        return step.prepare(StepBatch(torch.empty(0), torch.empty(0)), 0.5)

    views, two = views_of(1), views_of(2)
    return {
        "weak": batch.weak,
        "labels": batch.labels,
        "draws": draws,
        "strong": views.strong,
        "pseudo": views.pseudo,
        "two_strong": two.strong,
        "two_pseudo": two.pseudo,
    }


def walk(world, case, steps, state=None, folder=None, lost=0):
    """Take some steps, from a state; return them, the state and the tile filter's memory afterwards.

    `lost` steps come after it, as if the run was killed there.
    """
    feed = feed_on(world, case, folder)
    if state is not None:
        feed.teacher.tile_limit.load_state_dict({"scores": state["scores"]})
        feed.load_state_dict(state["feed"])
    trail = [one_step(feed) for _ in range(steps)]
    scores = feed.teacher.tile_limit.state_dict()["scores"]
    after = copy.deepcopy({"feed": feed.state_dict(), "scores": scores})
    for _ in range(lost):
        feed(0.5)
    return {"trail": trail, "state": after}


def whole(parts):
    """Join the ranks' parts of each step; the tile after a rank's last must be the next one of the whole batch."""
    steps = []
    for ranks in zip(*(p["trail"] for p in parts), strict=True):
        size = len(ranks[0]["strong"])
        step = {k: torch.cat([r[k][:size] for r in ranks]) for k in ranks[0]}
        if len(ranks) > 1:
            nexts = torch.arange(1, len(ranks) + 1) * size % len(step["draws"])
            for name in ("weak", "labels", "draws"):
                assert torch.equal(torch.cat([r[name][size:] for r in ranks]), step[name][nexts]), name
        steps.append(step)
    return steps


def same_steps(one, other):
    """Whether two lists of whole steps are equal to the bit."""
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
        for a, b in zip(one, other, strict=True)
    )


def same_state(one, other):
    """Whether two states are equal to the bit."""
    feeds = [{k: v for k, v in s["feed"].items() if k != "labels"} for s in (one, other)]
    labels = [s["feed"]["labels"] for s in (one, other)]
    return feeds[0] == feeds[1] and torch.equal(*labels) and one["scores"] == other["scores"]


def fates(folder):
    """Read all ranks' audit logs: each step's trained tiles in order of the ranks, and a count of the rejected."""
    found = {}
    paths = Path(folder).glob("ledger-*.jsonl")
    for path in sorted(paths, key=lambda p: int(p.stem.removeprefix("ledger-"))):
        for row in map(json.loads, path.read_text().splitlines()):
            trained, rejected = found.setdefault(row["step"], ([], Counter()))
            trained += [e * TILES + s for e, s in row["trained"]]
            rejected.update(e * TILES + s for e, s in row["rejected"])
    return found


def drawn(seed):
    """Draw a case that 1, 2, 3 and 6 ranks can share."""
    rng = np.random.default_rng(seed)
    chance = [0.9, 0.5, 0.1, 0.0][seed % 4]
    pattern = (rng.random(rng.integers(1, 40)) < chance).tolist()
    return Case(pattern, 6 * int(rng.integers(1, 3)), int(rng.integers(0, 3)), seed % 5 == 4)


def real_rank(world, folder, cases, steps, number):
    """Walk through drawn cases on one real rank, going on from OUT/state-CASE.pt where there is one."""
    walks = []
    for seed in range(int(cases)):
        start, logs = Path(folder) / f"state-{seed}.pt", Path(folder) / str(seed)
        logs.mkdir(exist_ok=True)
        state = torch.load(start, weights_only=True) if start.exists() else None
        walks.append(walk(world, drawn(seed), int(steps), state, logs, lost=int(number)))
    return walks


def rank_without_teacher(world, ticket):
    """Walk until one rank's teacher is gone; return what was said, and the state that is left."""
    case = Case([True, False, True], 6, depth=2)
    feed = feed_on(world, case, gone=int(ticket) if world.rank == 1 else None)
    try:
        for _ in range(20):
            feed(0.5)
    except TeachersGone as gone:
        scores = feed.teacher.tile_limit.state_dict()["scores"]
        return {
            "said": str(gone),
            "state": {"feed": feed.state_dict(), "scores": scores},
            "case": asdict(case),
        }
    raise AssertionError("nobody was gone")


def train(world, folder, kind="auto"):
    """Do 26 semi-supervised steps with real tiles, as the loop does them; return weights, average and each step."""
    batch, size = 4, 4 // world.ranks
    feed = feed_of(f"{folder}/labelled", f"{folder}/other", crop=16, batch=batch, world=world)
    model = tiny_net()
    with torch.no_grad():
        model[4].weight *= 8  # sure of some pixels, so that some are kept
    limit = TileLimit(drop_start=0.4, drop_end=0.2, window=12)
    teacher = LocalTeacher(model, 0.9, 0.5, limit, gather=world.gather)
    step = semi_step_of(model, teacher, feed, teacher.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    engine = Engine(world, model, optimizer, kind=kind, rank_batch=size)
    step.net, rows = engine.net, []
    step.train()
    for now, views in enumerate(replace(feed, unlabelled=None)(0, 26)):
        views = step.prepare(views, now / 26)
        seed_dropout(model, 3, now, range(world.rank * size, (world.rank + 1) * size), batch)
        losses = step(views, False)
        engine.backward(losses["loss"])
        engine.update()
        step.after_update()
        total = world.all_reduce_sum(torch.stack([loss.detach() for loss in losses.values()]))
        rows.append({"losses": total, "strong": views.strong, "pseudo": views.pseudo})
    state = {**teacher.state_dict(), "pool": step.pseudo.state_dict()["rows"]}
    figures = step.pseudo.monitor.report().values
    step.pseudo.close()
    return {"model": model.state_dict(), "state": state, "rows": rows, "figures": figures}
