"""A rank that trains on teacher services, and what all ranks together must have done with the plan's tiles."""

import json
from collections import Counter
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

import torch

from mkd.cli.log_lines import route_log_lines
from mkd.distributed.engine import Engine
from mkd.models.dropout import seed_dropout
from mkd.semi.entropy import TileLimit
from mkd.train.pseudo.audit_log import AuditLog
from mkd.train.pseudo.feed import PseudoFeed
from mkd.train.steps.semi import SemiStep
from mkd.train.steps.supervised import SupervisedLoss
from tests.helpers.shards import write_dataset
from tests.helpers.teacher.services import remote
from tests.helpers.training.nets import tiny_net
from tests.helpers.training.pseudo import monitor_of
from tests.helpers.training.runs import coloured, feed_of

SIZE, TILES = 2, 23  # of a rank's step, of an epoch


def write_tiles(folder):
    """Write the tiles that ranks train on."""
    write_dataset(folder / "tiles", coloured(TILES, (8, 8)))


def train(world, folder, steps, max_age, *endpoints):
    """Train until FOLDER/stop is there, at most so many steps; return what `judge` looks at, and the weights.

    FOLDER/ledger-RANK.jsonl and FOLDER/step-RANK are written on the way.
    """
    with route_log_lines(print):
        return _train(world, folder, steps, max_age, *endpoints)


def _train(world, folder, steps, max_age, *endpoints):
    folder, batch = Path(folder), SIZE * world.ranks
    feed = feed_of(folder / "tiles", folder / "tiles", batch=batch, world=world)
    student = tiny_net()
    limit = TileLimit(drop_start=0.4, drop_end=0.4, window=40)
    terms = {"session": "soak", "rank": world.rank, "max_age": int(max_age), "patience": 120.0}
    teacher = remote(student, *endpoints, limit=limit, gather=world.gather, **terms)
    monitor, audit_log = monitor_of(teacher, world=world), AuditLog(folder / f"ledger-{world.rank}.jsonl")
    pseudo = PseudoFeed(feed.candidates, SIZE, teacher, monitor, world, audit_log)
    step = SemiStep(student, pseudo, student, SupervisedLoss(0.7, 0.1), 1.0, world=world)
    engine = Engine(world, student, torch.optim.SGD(student.parameters(), lr=0.01), rank_batch=SIZE)
    step.net = engine.net
    slots = range(world.rank * SIZE, (world.rank + 1) * SIZE)
    for now, views in enumerate(replace(feed, unlabelled=None)(0, int(steps))):
        views = step.prepare(views, 0.0)
        seed_dropout(student, 0, now, slots, batch)
        engine.backward(step(views, False)["loss"])
        engine.update()
        step.after_update()
        (folder / f"step-{world.rank}").write_text(str(now + 1))
        if world.broadcast((folder / "stop").exists()):
            break
    figures = monitor.report()
    pool = [entry.tile.pair for entry in pseudo._pool if entry.tile is not None]
    pseudo.close()
    teacher.close()
    return {
        "student": student.state_dict(),
        "average": teacher.ema.state,
        "steps": now + 1,
        "read": pseudo.position * batch,
        "pool": pool,
        "tally": asdict(teacher.stats) | {"ages": dict(teacher.stats.ages), "age_steps": {}},
        "values": figures.values,
        "groups": figures.groups,
    }


def ledgers(folder, ranks):
    """Read what each rank trained on and rejected, as rows."""
    texts = [(folder / f"ledger-{rank}.jsonl").read_text() for rank in range(ranks)]
    return [[json.loads(line) for line in text.splitlines()] for text in texts]


def judge(folder, ends, max_age, show=print):
    """Return what is wrong: tiles trained on, rejected and in the pool are the plan's first ones, once each."""
    rows = list(chain(*ledgers(folder, len(ends))))
    trained, rejected = ([tuple(p) for row in rows for p in row[key]] for key in ("trained", "rejected"))
    pool = [tuple(p) for end in ends for p in end["pool"]]
    seen, read = Counter(chain(trained, rejected, pool)), ends[0]["read"]
    epochs = read // TILES  # whole ones
    wanted = {(epoch, sample) for epoch in range(epochs) for sample in range(TILES)}
    tallies = [end["tally"] for end in ends]
    show(
        f"{ends[0]['steps']} steps, {epochs} whole epochs of {TILES} tiles: {len(trained)} trained, "
        f"{len(rejected)} rejected, {len(pool)} in the pool; asked again {sum(t['retries'] for t in tallies)} times"
    )
    wrong = [f"{pair} {n} times" for pair, n in seen.items() if n > 1]
    wrong += [f"{pair} never" for pair in sorted(wanted - seen.keys())]
    wrong += [f"{pair} is beyond what was read" for pair in seen if pair[0] > epochs]
    wrong += [f"{seen.total()} tiles of the {read} that were read"] * (seen.total() != read)
    wrong += ["ranks differ"] * any(not alike(end, ends[0]) for end in ends)
    wrong += ["nothing was rejected: the case must have both"] * (not rejected)
    wrong += ["no epoch is whole: train longer"] * (epochs == 0)
    wrong += ["an answer was older than max_age"] * any(int(a) > max_age for t in tallies for a in t["ages"])
    return wrong


def alike(one, other):
    """Say whether two ranks ended with the same step, student and average."""
    nets = ("student", "average")
    equal = all(torch.equal(one[net][name], t) for net in nets for name, t in other[net].items())
    return equal and one["steps"] == other["steps"] and one["read"] == other["read"]
