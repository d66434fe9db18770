"""Checkpoints that lack something, hold junk, or belong to another run or phase: one sentence each."""

import math
from pathlib import Path

import pytest
import torch

from mkd.train.run.checkpoint import Checkpoints
from mkd.train.run.saved_state import checked_step, restoring

GOOD = {
    "step": 3,
    "best": 0.5,
    "refers": {},
    "model": {"w": torch.ones(2)},
    "optimizer": {},
    "step_state": {},
}
LATEST = Path("run/checkpoints/student/latest.pt")


def test_a_whole_state_passes():
    """The step comes back."""
    assert checked_step(GOOD, LATEST, 3) == 3


@pytest.mark.parametrize("key", GOOD)
@pytest.mark.parametrize("value", [..., None, "x", [], torch.zeros(1)])
def test_a_key_that_is_missing_or_junk(key, value):
    """Each key is needed, with a value of its kind."""
    state = {k: v for k, v in GOOD.items() if k != key} | ({} if value is ... else {key: value})
    with pytest.raises(ValueError, match=rf"latest\.pt: damaged checkpoint \(it.*'{key}'.*delete .*student"):
        checked_step(state, LATEST, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"step": 4},
        {"step": -1},
        {"model": {"w": torch.tensor([math.nan])}},
        {"model": {"w": torch.tensor([math.inf])}},
        {"model": {"w": 1}},
    ],
)
def test_values_out_of_range(change):
    """A step beyond the phase, and weights that are not finite or no tensors."""
    with pytest.raises(ValueError, match="damaged checkpoint"):
        checked_step(GOOD | change, LATEST, 3)


@pytest.mark.parametrize(
    "error", [RuntimeError("size\nmismatch"), KeyError("x"), TypeError("y"), IndexError("z")]
)
def test_what_does_not_fit_is_a_sentence(error):
    """Whatever torch raises of a foreign state becomes one line with the file."""
    with (
        pytest.raises(ValueError, match=r"latest\.pt: damaged checkpoint \(it does not fit") as caught,
        restoring(LATEST),
    ):
        raise error
    assert "\n" not in str(caught.value)


def saved(folder, run):
    checkpoints = Checkpoints(folder, run=run)
    checkpoints.save({"step": 1, "x": torch.ones(1)}, good=True)
    checkpoints.save_best({"w": torch.ones(1)})
    return checkpoints


def test_files_of_another_run_are_refused(tmp_path, caplog):
    """latest.pt, good.pt and best.safetensors carry the run's name; those of another are refused, or accepted aloud."""
    student = saved(tmp_path / "a" / "student", "one")
    assert student.load().keys() == {"step", "x"}
    foreign = Checkpoints(tmp_path / "a" / "student", run="two")
    for read in (foreign.load, foreign.load_best, lambda: foreign.go_back(lambda state: None)):
        with pytest.raises(
            ValueError, match=r"is of another run \(one, this one is two\).*accept=\[checkpoint\]"
        ):
            read()
    accepting = Checkpoints(tmp_path / "a" / "student", run="two", accept_foreign=True)
    assert accepting.load()["step"] == 1
    assert accepting.load_best().keys() == {"w"}
    assert caplog.messages[0].startswith("accept=[checkpoint]: ")


def test_a_checkpoint_of_another_phase_is_refused(tmp_path):
    """The teacher's checkpoint is none of the student's, of the same run."""
    saved(tmp_path / "teacher", "one")
    (tmp_path / "teacher").rename(tmp_path / "student")
    with pytest.raises(ValueError, match="is of the phase 'teacher'"):
        Checkpoints(tmp_path / "student", run="one").load()


def test_older_checkpoints_have_no_owner(tmp_path):
    """A checkpoint from before runs had names goes on, and so does one without a name of its own."""
    saved(tmp_path / "student", None)
    assert Checkpoints(tmp_path / "student", run="two").load()["step"] == 1
    saved(tmp_path / "student", "one")
    assert Checkpoints(tmp_path / "student").load()["step"] == 1
