"""Checkpoints that stay: the good one to go back to, and those kept under their own name."""

import errno
import os

import pytest
import torch

from mkd.train.run.checkpoint import Checkpoints
from tests.mkd.train.run.states import equal, names, raised, state_of


def test_going_back_to_the_good_checkpoint(checkpoints):
    """The good state comes back as the latest, changed as asked, with the best weights of its time."""
    good = state_of(3)
    checkpoints.save_best({"w": torch.ones(2)})
    checkpoints.save(good, good=True)
    checkpoints.save(state_of(6))
    checkpoints.save_best({"w": torch.zeros(2)})
    assert checkpoints.load()["step"] == 6
    assert checkpoints.go_back(raised) == 3
    found = checkpoints.load()
    assert found["step_state"].pop("rollbacks") == 1
    assert equal(found, good)
    assert torch.equal(checkpoints.load_best()["w"], torch.ones(2))
    assert checkpoints.go_back(raised) == 3  # and again


def test_going_back_to_a_time_without_best_weights(checkpoints):
    """Best weights of a later validation do not stay."""
    checkpoints.save(state_of(3), good=True)
    checkpoints.save_best({"w": torch.zeros(2)})
    checkpoints.go_back(raised)
    assert not checkpoints.best.exists()


def test_the_good_checkpoint_follows_when_kept_again(checkpoints):
    """Keeping replaces what was kept; saving alone does not touch it."""
    for step in (3, 6):
        checkpoints.save(state_of(step), good=True)
    checkpoints.save(state_of(9))
    assert checkpoints.go_back(raised) == 6
    assert {p.name for p in checkpoints.latest.parent.iterdir()} == {"latest.pt", "good.pt"}


def test_a_damaged_good_checkpoint_is_one_sentence(checkpoints):
    """It is named, and the latest stays as it was."""
    checkpoints.save(state_of(3), good=True)
    checkpoints.save(state_of(6))
    checkpoints.good.write_bytes(checkpoints.good.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"good\.pt: damaged checkpoint"):
        checkpoints.go_back(raised)
    assert checkpoints.load()["step"] == 6


def test_every_so_many_steps_one_is_kept(tmp_path):
    """Checkpoints of every 4th step stay under their own name, the newest two of them, without a second copy."""
    checkpoints = Checkpoints(tmp_path, every=4, keep=2)
    for step in range(2, 14, 2):
        checkpoints.save(state_of(step))
    assert names(checkpoints) == {"latest.pt", "step-8.pt", "step-12.pt"}
    assert checkpoints.latest.samefile(tmp_path / "step-12.pt")
    checkpoints.save(state_of(14))
    assert torch.load(tmp_path / "step-12.pt")["step"] == 12


def test_kept_checkpoints_are_ordered_by_number(tmp_path):
    """step-100 is newer than step-8."""
    checkpoints = Checkpoints(tmp_path, every=4, keep=1)
    for step in (8, 100):
        checkpoints.save(state_of(step))
    assert names(checkpoints) == {"latest.pt", "step-100.pt"}


def test_a_name_that_a_kill_prevented_is_given_at_the_next_start(tmp_path):
    """The checkpoint was written and its other names were not: going on gives them."""
    Checkpoints(tmp_path).save(state_of(8))
    Checkpoints(tmp_path, every=4).keep_as(8, good=True)
    assert {p.name for p in tmp_path.iterdir()} == {"latest.pt", "step-8.pt", "good.pt"}


def test_going_back_drops_what_was_kept_since(tmp_path):
    """Kept checkpoints of the course that is given up go too; those of before stay."""
    checkpoints = Checkpoints(tmp_path, every=2)
    for step in (2, 4, 6):
        checkpoints.save(state_of(step), good=step == 4)
    assert checkpoints.go_back(raised) == 4
    assert names(checkpoints) == {"latest.pt", "good.pt", "step-2.pt", "step-4.pt"}


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK])
def test_without_hard_links_names_are_copies(tmp_path, monkeypatch, number):
    """File systems without links, or with too many: the kept checkpoint is a file of its own."""

    def refused(*args):
        raise OSError(number, "no links")

    monkeypatch.setattr(os, "link", refused)
    checkpoints = Checkpoints(tmp_path, every=1)
    checkpoints.save(state_of(4), good=True)
    assert names(checkpoints) == {"latest.pt", "step-4.pt", "good.pt"}
    assert not checkpoints.latest.samefile(tmp_path / "step-4.pt")
    assert torch.load(tmp_path / "step-4.pt")["step"] == 4


def test_another_error_of_a_link_is_heard(tmp_path, monkeypatch):
    """A full disk is not copied to."""

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space"):
        Checkpoints(tmp_path, every=1).save(state_of(4))
