"""A phase that has reached its plateau ends, a start that is not beaten stays, and what spoils a run is said."""

from dataclasses import replace

import pytest

from mkd.metrics.confusion import ConfusionMatrix
from mkd.train.run.checkpoint import Checkpoints
from tests.helpers.training.loops import equal, step_and_feed, write_sets
from tests.helpers.training.runs import fit_in, phase_of, rows
from tests.mkd.train.test_loop import scores


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("data"))


def test_a_plateau_ends_a_phase_and_a_killed_one_ends_alike(data, tmp_path):
    """After two validations without a rise the phase ends at a checkpoint; what is started again is not trained on."""
    validations = scores(0.2, 0.5, 0.4, 0.5, 0.9)  # a tie is no rise
    step, feed = step_and_feed("supervised", 0, data["labelled"], None)
    phase = replace(phase_of(steps=40, save_every=50), plateau=2)
    weights = fit_in(tmp_path, step, feed, phase, validations)
    assert [r["step"] for r in rows(tmp_path) if "val_miou" in r] == [2, 4, 6, 8]
    saved = Checkpoints(tmp_path / "checkpoints" / "student").load()
    assert (saved["step"], saved["stale"]) == (8, 2)
    before = rows(tmp_path)
    again = fit_in(tmp_path, step_and_feed("supervised", 5, data["labelled"], None)[0], feed, phase, scores())
    assert equal(again, weights)
    assert rows(tmp_path) == before


def test_the_start_competes(data, tmp_path):
    """A phase that validates its start keeps these weights when it does only harm."""
    step, feed = step_and_feed("supervised", 0, data["labelled"], None)
    before = {name: t.clone() for name, t in step.model.state_dict().items()}
    phase = replace(phase_of(steps=4), validates_start=True)
    kept = fit_in(tmp_path, step, feed, phase, scores(0.5, 0.4, 0.3))
    assert [r["step"] for r in rows(tmp_path) if "val_miou" in r] == [0, 2, 4]
    assert equal(kept, before)
    assert not equal(step.model.state_dict(), before)


def test_one_class_alone_is_warned_of(data, tmp_path, capsys):
    """A validation in which every pixel has the same class says so, with the class."""

    def all_road(model):
        matrix = ConfusionMatrix(3)
        matrix.matrix[:, 1] = 5
        return matrix

    step, feed = step_and_feed("supervised", 0, data["labelled"], None)
    fit_in(tmp_path, step, feed, phase_of(steps=2), all_road)
    assert (
        "warning: student, step 2: every validation pixel is predicted as 'road'" in capsys.readouterr().out
    )


@pytest.mark.parametrize(("weight", "word"), [(1e6, "lower"), (1e-9, "raise"), (None, None)])
def test_a_share_of_ewc_that_is_off_is_warned_of_once(data, tmp_path, capsys, weight, word):
    """A ratio of gradients above 1 drowns L_sup; below 0.01 in the second half the term does next to nothing."""
    step, feed = step_and_feed("kd", 0, data["labelled"], data["unlabelled"])
    if weight is not None:
        step.ewc = replace(step.ewc, weight=weight)
    fit_in(tmp_path, step, feed, phase_of(steps=20, lr=1e-12))
    said = [line for line in capsys.readouterr().out.splitlines() if "the gradient of w_ewc" in line]
    ratios = [r["ewc_ratio"] for r in rows(tmp_path) if "ewc_ratio" in r]
    assert len(ratios) == 4
    assert len(said) == (word is not None)
    if word is not None:
        assert f"{word} kd.ewc_weight" in said[0]
        assert all(r > 1 if word == "lower" else r < 0.01 for r in ratios)


def test_a_start_that_is_validated_again_has_one_row(data, tmp_path):
    """Killed before its first checkpoint, a phase begins anew, and so do its rows."""
    phase = replace(phase_of(steps=4), validates_start=True)
    for kill in (2, None):
        step, feed = step_and_feed("supervised", 0, data["labelled"], None)
        fit_in(tmp_path, step, feed, phase, scores(0.5, 0.4, 0.3), kill)
    assert [r["step"] for r in rows(tmp_path) if "val_miou" in r] == [0, 2, 4]
