"""Two student ranks, and two teachers killed at random moments: python tests/soak_teacher.py [KILLS] [SEED].

The ranks train with gloo on pseudo-labels of the services, each teacher is killed with -9 in turn and started again on
its port. At the end the tiles trained on, those rejected and those still in the pools are the plan's, once each; both
ranks have the same student and the same average; each version of it was published by one rank.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import timedelta
from itertools import chain
from pathlib import Path

import torch
import torch.distributed as dist

from mkd.dist.world import World
from mkd.semi.entropy import TileLimit
from mkd.train.ledger import Ledger
from mkd.train.pseudo_feed import PseudoFeed
from mkd.train.semi_step import SemiStep
from mkd.train.supervised_step import Ohem
from tests.helpers.nets import tiny_net
from tests.helpers.pseudo import health_of
from tests.helpers.runs import coloured, feed_of
from tests.helpers.shards import write_dataset
from tests.helpers.teachers import ROOT, TeacherProcess, free_port, processes, remote, until

RANKS, TILES, DELAY = 2, 23, 0.02


def rank_of(rank, folder, endpoints):
    """Train one rank until FOLDER/stop is there; write its ledger, and FOLDER/RANK.json at the end."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", meeting, timedelta(seconds=120), world_size=RANKS, rank=rank)
    world = World(rank, RANKS, torch.device("cpu"))
    feed = feed_of(folder / "tiles", folder / "tiles", batch=2 * RANKS, world=world)
    student = tiny_net()
    limit = TileLimit(drop_start=0.4, drop_end=0.4, window=40)
    terms = {"session": "soak", "publishes": rank == 0, "max_age": 4, "patience": 120.0}
    teacher = remote(student, *endpoints, limit=limit, **terms)
    pseudo = PseudoFeed(
        feed.candidates, 2, teacher, health_of(teacher), print, Ledger(folder / f"ledger-{rank}.jsonl")
    )
    step = SemiStep(student, pseudo, student, Ohem(0.7, 0.1), 1.0)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    steps = 0
    for views in feed(0, 10**6):
        torch.manual_seed(steps)
        step(views, 0.0, False)["loss"].backward()
        together(student)
        optimizer.step()
        optimizer.zero_grad()
        step.updated()
        steps += 1
        (folder / f"step-{rank}").write_text(str(steps))
        if stopped(folder):
            break
    pool = [t.pair for t in pseudo._pool]
    sums = [digest(student.state_dict()), digest(teacher.ema.state)]
    counts = vars(teacher.tally) | {"ages": dict(teacher.tally.ages), "age_steps": {}}
    pseudo.close()
    teacher.close()
    (folder / f"{rank}.aside").write_text(
        json.dumps({"pool": pool, "sums": sums, "steps": steps, "tally": counts})
    )
    (folder / f"{rank}.aside").rename(folder / f"{rank}.json")
    dist.barrier()
    dist.destroy_process_group()


def together(student):
    """Average the gradients over the ranks; BatchNorm's statistics are the first rank's."""
    for p in student.parameters():
        dist.all_reduce(p.grad)
        p.grad /= RANKS
    for t in student.buffers():
        dist.broadcast(t, 0)


def stopped(folder):
    """Return whether all ranks are to stop after this step."""
    flag = torch.tensor(int((folder / "stop").exists()))
    dist.broadcast(flag, 0)
    return bool(flag)


def digest(state):
    """Return a number that any changed bit changes."""
    return [[name, t.double().sum().item().hex()] for name, t in state.items()]


def steps_of(folder, rank):
    """Return how far a rank has come."""
    text = (folder / f"step-{rank}").read_text() if (folder / f"step-{rank}").is_file() else ""
    return int(text or 0)


def start(command, log):
    """Start a process of one thread that writes into a log."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with open(log, "w") as out:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT)


def train_and_kill(folder, kills, rng, show):
    """Start teachers and students, kill one teacher after the other, stop the students; return what they said."""
    teachers = [TeacherProcess(free_port(), n, DELAY, wait=False) for n in range(2)]
    with processes(*teachers):
        endpoints = [t.endpoint for t in teachers]
        command = [sys.executable, "-m", "tests.soak_teacher", "rank", str(folder), *endpoints]
        students = [start([*command, str(rank)], folder / f"log-{rank}") for rank in range(RANKS)]
        try:
            until(lambda: all(steps_of(folder, rank) > 2 for rank in range(RANKS)), 120)
            for n in range(kills):
                time.sleep(rng.uniform(0, 1.5))
                teachers[n % 2].kill()
                time.sleep(rng.uniform(0, 0.5))
                # The next one may be killed before this one is ready: then nobody is there for a while.
                teachers[n % 2] = TeacherProcess(teachers[n % 2].port, n, DELAY, wait=rng.random() < 0.7)
                show(f"kill {n + 1} of {kills} at step {steps_of(folder, 0)}")
            last = steps_of(folder, 0)
            until(lambda: steps_of(folder, 0) > last + 5, 120)
            (folder / "stop").touch()
            until(lambda: all((folder / f"{rank}.json").is_file() for rank in range(RANKS)), 120)
        finally:
            for student in students:
                student.kill()
                student.wait()
            for teacher in teachers:
                teacher.kill()


def judge(folder, show):
    """Return what is wrong with the ranks' ledgers and ends."""
    ends = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(RANKS)]
    texts = [(folder / f"ledger-{rank}.jsonl").read_text() for rank in range(RANKS)]
    ledgers = [[json.loads(line) for line in text.splitlines()] for text in texts]
    trained, rejected = (
        [tuple(p) for row in chain(*ledgers) for p in row[key]] for key in ("trained", "rejected")
    )
    pool = [tuple(p) for end in ends for p in end["pool"]]
    seen = Counter(chain(trained, rejected, pool))
    # The ranks take their parts of the plan at their own pace: an epoch is whole when both have gone beyond it.
    epochs = min(max(epoch for row in rows for epoch, _ in row["trained"]) for rows in ledgers)
    wanted = {(epoch, sample) for epoch in range(epochs) for sample in range(TILES)}
    tallies = [end["tally"] for end in ends]
    show(
        f"{ends[0]['steps']} steps, {epochs} whole epochs of {TILES} tiles: {len(trained)} trained, "
        f"{len(rejected)} rejected, {len(pool)} in the pools; asked again {sum(t['retries'] for t in tallies)} times"
    )
    wrong = [f"{pair} {n} times" for pair, n in seen.items() if n > 1]
    wrong += [f"{pair} never" for pair in sorted(wanted - seen.keys())]
    wrong += ["the ranks differ"] * (
        ends[0]["sums"] != ends[1]["sums"] or ends[0]["steps"] != ends[1]["steps"]
    )
    wrong += ["nothing was rejected: the case must have both"] * (not rejected)
    wrong += ["no epoch is whole: train longer"] * (epochs == 0)
    wrong += ["an answer was older than max_age"] * any(int(a) > 4 for t in tallies for a in t["ages"])
    return wrong


def soak(kills, seed=0, show=print):
    """Return what is wrong after so many kills, and what the students said."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / "tiles", coloured(TILES, (8, 8)))
        train_and_kill(folder, kills, random.Random(seed), show)
        said = [(folder / f"log-{rank}").read_text() for rank in range(RANKS)]
        return judge(folder, show), said


if __name__ == "__main__":
    if sys.argv[1:2] == ["rank"]:
        rank_of(int(sys.argv[-1]), Path(sys.argv[2]), sys.argv[3:-1])
    else:
        complaints, _ = soak(*([int(a) for a in sys.argv[1:]] or [20]))
        sys.exit("\n".join(complaints) if complaints else 0)
