"""Checkpoints written by a thread while training goes on."""

import threading

import pytest
import torch

from mkd.train.run.checkpoint import Checkpoints
from tests.mkd.train.run.states import names, raised, state_of


@pytest.fixture
def slow_disk(monkeypatch):
    """Let torch.save wait for `go`; gives both, and says in `begun` when it was called."""
    begun, go, save = threading.Event(), threading.Event(), torch.save

    def waiting(*args):
        begun.set()
        assert go.wait(30)
        save(*args)

    monkeypatch.setattr(torch, "save", waiting)
    return begun, go


def test_written_in_the_background(tmp_path, slow_disk):
    """Saving returns before the file is there; what is written is the state of that moment, then its other names."""
    begun, go = slow_disk
    checkpoints, state = Checkpoints(tmp_path, every=1, background=True), state_of(1)
    weight = state["model"]["0.weight"]
    before = weight.clone()
    checkpoints.save(state, good=True)
    with torch.no_grad():
        weight.zero_()
    state["step_state"]["tile_limit"]["scores"].append(0.3)
    assert begun.wait(30)
    assert not checkpoints.latest.exists()
    go.set()
    checkpoints.wait()
    found = checkpoints.load()
    assert torch.equal(found["model"]["0.weight"], before)
    assert found["step_state"]["tile_limit"]["scores"] == [0.1, 0.2]
    assert names(checkpoints) == {"latest.pt", "step-1.pt", "good.pt"}


def test_one_at_a_time_in_the_background(tmp_path, slow_disk):
    """A second save, later best weights or a way back wait for the first one; the last one wins."""
    _, go = slow_disk
    checkpoints = Checkpoints(tmp_path, background=True)
    checkpoints.save(state_of(1), good=True)
    threading.Timer(0.1, go.set).start()
    checkpoints.save_best({"w": torch.ones(2)})
    assert torch.load(checkpoints.latest)["step"] == 1
    assert not checkpoints.good_best.exists()  # the best weights are younger than the good checkpoint
    checkpoints.save(state_of(2))
    checkpoints.save(state_of(3))
    assert checkpoints.go_back(raised) == 1
    assert checkpoints.load()["step"] == 1


def test_a_write_that_fails_in_the_background_is_heard(tmp_path, monkeypatch):
    """At the next save, or at the end, the disk's error ends the run; the checkpoint before stays."""
    checkpoints = Checkpoints(tmp_path, background=True)
    checkpoints.save(state_of(1))
    checkpoints.wait()

    def full(state, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    for again in (lambda: checkpoints.save(state_of(3)), checkpoints.wait):
        checkpoints.save(state_of(2))
        with pytest.raises(OSError, match="No space"):
            again()
    assert checkpoints.load()["step"] == 1


def test_best_weights_in_the_background(tmp_path, monkeypatch):
    """They are those of their moment, come before the checkpoint that follows, and are its `good_best`."""
    go, write = threading.Event(), Checkpoints._write_best

    def waiting(self, state):
        assert go.wait(30)
        write(self, state)

    monkeypatch.setattr(Checkpoints, "_write_best", waiting)
    checkpoints, weights = Checkpoints(tmp_path, background=True), {"w": torch.ones(2)}
    assert not checkpoints.has_best()
    checkpoints.save_best(weights)
    weights["w"].zero_()
    assert checkpoints.has_best()  # on its way
    checkpoints.save(state_of(1), good=True)  # does not wait for the best weights
    assert names(checkpoints) == set()
    go.set()
    checkpoints.save_best({"w": torch.full((2,), 2.0)})  # waits for both; younger than the good checkpoint
    checkpoints.wait()
    assert torch.equal(checkpoints.load_best()["w"], torch.full((2,), 2.0))
    checkpoints.go_back(raised)
    assert torch.equal(checkpoints.load_best()["w"], torch.ones(2))


def test_best_weights_that_cannot_be_written_are_heard(tmp_path, monkeypatch):
    """In the background the disk's error comes at the next save of its kind or at the end; the checkpoint is there."""

    def full(self, state):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "_write_best", full)
    checkpoints = Checkpoints(tmp_path, background=True)
    for again in (lambda: checkpoints.save(state_of(3)), checkpoints.wait, lambda: checkpoints.save_best({})):
        checkpoints.save_best({"w": torch.ones(2)})
        checkpoints.save(state_of(2))
        with pytest.raises(OSError, match="No space"):
            again()
        assert checkpoints.load()["step"] == 2
