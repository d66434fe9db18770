"""The loop on real ranks: the same as one rank, gone on from with another number of them, and held together."""

from pathlib import Path

import pytest
import torch

from mkd.distributed.engine import Engine
from mkd.train.run.checkpoint import Checkpoints
from mkd.train.run.journal import Journal
from mkd.train.trainer import Trainer
from tests.helpers.processes.ranks import run_ranks
from tests.helpers.shards import CLASSES
from tests.helpers.training.loops import KINDS, run, step_and_feed, write_sets
from tests.helpers.training.runs import CPU, fit_in, phase_of, rows

HERE = "tests.mkd.train.test_loop_ranks"
pytestmark = pytest.mark.usefixtures("one_thread")


def train(world, folder, kind, sets, **more):
    """Train 8 steps of 4 tiles over all ranks, validated on 3 tiles: an odd one for 2 ranks."""
    return run(folder, sets, kind, world=world, **({"batch": 4, "lr": 0.02} | more))


def on_ranks(world, out, sets):
    """Do for each kind: a whole run, one that is killed, and one that goes on from a single rank's checkpoint."""
    found = {}
    sets = named(sets)
    for kind in KINDS:
        found[kind] = train(world, Path(out) / kind / "whole", kind, sets)
        train(world, Path(out) / kind / "killed", kind, sets, kill=4)
        found[f"{kind} more"] = train(world, Path(out) / kind / "more", kind, sets, seed=100)
    return found


def named(root):
    """Name the sets of a folder, as `write_sets` does."""
    return {name: str(Path(root) / name) for name in ("labelled", "unlabelled", "val")}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def results(sets, tmp_path_factory):
    """Weights of one rank, of two, and of those that went on with another number, by kind."""
    out = tmp_path_factory.mktemp("out")
    one = {}
    for kind in KINDS:
        one[kind] = train(CPU, out / kind / "one", kind, sets)
        train(CPU, out / kind / "more", kind, sets, kill=4)
    return out, one, run_ranks(f"{HERE}:on_ranks", 2, out, str(out), str(Path(sets["val"]).parent))


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
    said, folder, sets = [], Path(out) / str(world.rank), named(sets)
    both = sets["labelled"], sets["unlabelled"]
    if world.is_main:
        train(CPU, folder, "supervised", sets, steps=2)
    world.barrier()
    step, feed = step_and_feed("supervised", 0, *both, world, batch=4)
    engine = Engine(world, step.model, torch.optim.SGD(step.model.parameters(), lr=0.1))
    checkpoints = Checkpoints(folder / "checkpoints" / "student", world.is_main)
    try:
        Trainer(
            phase_of(batch=4), step, engine, checkpoints, Journal(folder, CLASSES, world.is_main)
        ).resume()
    except ValueError as error:
        said.append(str(error))
    step, feed = step_and_feed("supervised", 0, *both, world, batch=4)

    def updated():
        with torch.no_grad():
            step.model[4].bias += 1e-7 * world.rank

    step.after_update = updated
    try:
        fit_in(Path(out) / "new", step, feed, phase_of(batch=4, save_every=2), world=world)
    except ValueError as error:
        said.append(str(error))
    return said


@pytest.mark.slow
def test_ranks_that_come_apart(sets, tmp_path):
    """Another checkpoint on another node, or a weight that differs by a bit at a save, ends the run in a sentence."""
    first, second = run_ranks(f"{HERE}:apart", 2, tmp_path, str(tmp_path), str(Path(sets["val"]).parent))
    assert "rank 1 finds the checkpoint of step 0" in second[0]
    assert "rank 0 that of step 2; all nodes must share the storage" in second[0]
    for said in (first[0], second[1]):
        assert "student phase, step 2: the weights, or their average, of rank 1 differ" in said
    assert not list((tmp_path / "new").rglob("latest.pt"))
