"""The loop on real ranks: the same as one rank, gone on from with another number of them, and held together."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mkd.data.loader import TileSet
from mkd.dist.engine import Engine
from mkd.evaluate import confusion
from mkd.semi.entropy import TileLimit
from mkd.teacher.local import LocalTeacher
from mkd.train.checkpoint import Checkpoints
from mkd.train.course import Course
from mkd.train.journal import Journal
from mkd.train.kd_step import Consolidation, KdStep
from mkd.train.supervised_step import Ohem, SupervisedStep
from tests.helpers.nets import tiny_net
from tests.helpers.pseudo import semi_step_of
from tests.helpers.ranks import run_ranks
from tests.helpers.runs import CPU, coloured, feed_of, fit_in, phase_of, rows
from tests.helpers.shards import CLASSES, pictures, write_dataset

HERE = "tests.mkd.train.test_loop_ranks"
KINDS = ("supervised", "kd", "semi")
pytestmark = pytest.mark.usefixtures("one_thread")


def step_and_feed(kind, sets, world, seed):
    """Make a step with all that it remembers, and what feeds it: 4 tiles a step over all ranks."""
    other = None if kind == "supervised" else sets / "unlabelled"
    feed = feed_of(sets / "labelled", other, crop=16, batch=4, world=world)
    ohem, student = Ohem(0.7, 0.1), tiny_net(seed=seed)
    if kind == "supervised":
        return SupervisedStep(student, ohem, world=world), feed
    if kind == "kd":
        teacher = tiny_net(seed=50).eval().requires_grad_(False)
        anchor = {n: p.detach().clone() for n, p in tiny_net(seed=51).named_parameters()}
        fisher = {n: torch.full_like(p, 0.5) for n, p in anchor.items()}
        return KdStep(student, teacher, ohem, 3.0, 1.0, Consolidation(anchor, fisher, 0.1), world), feed
    limit = TileLimit(drop_start=0.4, drop_end=0.3, window=6)
    teacher = LocalTeacher(student, 0.9, 0.4, limit, gather=world.gather)
    return semi_step_of(student, teacher, feed, teacher.model), replace(feed, unlabelled=None)


def train(world, folder, kind, sets, kill=None, seed=0, **phase):
    """Train 8 steps with validation on 3 tiles: an odd one for 2 ranks."""
    step, feed = step_and_feed(kind, Path(sets), world, seed)
    tiles = TileSet(Path(sets) / "val", labelled=True)
    health = step.pseudo.health if kind == "semi" else None
    return fit_in(
        folder,
        step,
        feed,
        phase_of(**({"batch": 4, "lr": 0.02} | phase)),
        lambda model: confusion(model, tiles, 2, world),
        kill,
        health,
        world,
    )


def on_ranks(world, out, sets):
    """Do for each kind: a whole run, one that is killed, and one that goes on from a single rank's checkpoint."""
    found = {}
    for kind in KINDS:
        found[kind] = train(world, Path(out) / kind / "whole", kind, sets)
        train(world, Path(out) / kind / "killed", kind, sets, kill=4)
        found[f"{kind} more"] = train(world, Path(out) / kind / "more", kind, sets, seed=100)
    return found


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    made = {
        "labelled": coloured(6, (16, 16), seed=6),
        "unlabelled": coloured(3, (16, 16), seed=4) + pictures(3, (16, 16), seed=4),
        "val": coloured(3, (16, 16), seed=2),
    }
    for name, pairs in made.items():
        write_dataset(root / name, pairs, labelled=name != "unlabelled")
    return root


@pytest.fixture(scope="module")
def results(sets, tmp_path_factory):
    """Weights of one rank, of two, and of those that went on with another number, by kind."""
    out = tmp_path_factory.mktemp("out")
    one = {}
    for kind in KINDS:
        one[kind] = train(CPU, out / kind / "one", kind, sets)
        train(CPU, out / kind / "more", kind, sets, kill=4)
    return out, one, run_ranks(f"{HERE}:on_ranks", 2, out, str(out), str(sets))


def near(one, other):
    assert one.keys() == other.keys()
    for name, t in one.items():
        torch.testing.assert_close(t, other[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_are_one(results, kind):
    """The chosen weights after 8 steps are those of one rank with the whole batch, and the same on both ranks."""
    _, one, (first, second) = results
    assert all(torch.equal(t, second[kind][n]) for n, t in first[kind].items())
    near(first[kind], one[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_of_all_ranks(results, kind):
    """Losses, shares and validation are written once, and are the global ones."""
    out, _, _ = results
    alone, together = (rows(out / kind / name) for name in ("one", "whole"))
    assert [(r["phase"], r["step"], sorted(r)) for r in together] == [
        (r["phase"], r["step"], sorted(r)) for r in alone
    ]
    for mine, theirs in zip(together, alone, strict=True):
        for name, value in theirs.items():
            if isinstance(value, (float, dict)):
                assert mine[name] == pytest.approx(value, rel=1e-4, abs=1e-4), name


@pytest.mark.parametrize("kind", KINDS)
def test_more_ranks_go_on(results, kind):
    """One rank was killed at step 4, and two go on."""
    _, one, (first, _) = results
    near(first[f"{kind} more"], one[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_ranks_go_on(results, sets, kind):
    """Two ranks were killed at step 4, and one goes on."""
    out, one, _ = results
    assert Checkpoints(out / kind / "killed" / "checkpoints" / "student").load()["step"] == 3
    near(train(CPU, out / kind / "killed", kind, sets, seed=100), one[kind])


def apart(world, out, sets):
    """Return what is said when ranks see different checkpoints, and when their weights differ."""
    said, folder = [], Path(out) / str(world.rank)
    if world.first:
        train(CPU, folder, "supervised", sets, steps=2)
    world.barrier()
    step, feed = step_and_feed("supervised", Path(sets), world, 0)
    engine = Engine(world, step.model, torch.optim.SGD(step.model.parameters(), lr=0.1))
    checkpoints = Checkpoints(folder / "checkpoints" / "student", world.first)
    try:
        Course(phase_of(batch=4), step, engine, checkpoints, Journal(folder, CLASSES, world.first)).go_on()
    except ValueError as error:
        said.append(str(error))
    step, feed = step_and_feed("supervised", Path(sets), world, 0)

    def updated():
        with torch.no_grad():
            step.model[4].bias += 1e-7 * world.rank

    step.updated = updated
    try:
        fit_in(Path(out) / "new", step, feed, phase_of(batch=4, save_every=2), world=world)
    except ValueError as error:
        said.append(str(error))
    return said


@pytest.mark.slow
def test_ranks_that_come_apart(sets, tmp_path):
    """Another checkpoint on another node, or a weight that differs by a bit at a save, ends the run in a sentence."""
    first, second = run_ranks(f"{HERE}:apart", 2, tmp_path, str(tmp_path), str(sets))
    assert "rank 1 finds the checkpoint of step 0" in second[0]
    assert "rank 0 that of step 2; all nodes must share the storage" in second[0]
    for said in (first[0], second[1]):
        assert "student phase, step 2: the weights, or their average, of rank 1 differ" in said
    assert not list((tmp_path / "new").rglob("latest.pt"))
