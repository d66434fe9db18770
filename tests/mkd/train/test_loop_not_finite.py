"""The loop ends in one sentence where a loss or a weight is not finite, and the last good checkpoint stays."""

import math

import pytest

from mkd.train.run.checkpoint import Checkpoints
from mkd.train.steps.supervised import SupervisedStep
from tests.helpers.training.loops import OHEM, write_sets
from tests.helpers.training.nets import tiny_net
from tests.helpers.training.runs import feed_of, fit_in, phase_of, rows


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("data"))


class Bad(SupervisedStep):
    """A step whose loss, or only its gradient, is not a number from one step on."""

    first, where = 5, "loss"

    def prepare(self, views, progress):
        self.now = round(progress * 8)
        return views

    def __call__(self, part, measure_gradients):
        losses = super().__call__(part, measure_gradients)
        if self.now >= self.first:
            if self.where == "loss":
                losses["loss_sup"] = losses["loss"] = losses["loss"] * math.nan
            else:
                losses["loss"] = losses["loss"] + (self.model[4].bias * 0).sum().sqrt()  # 0 with gradient 0/0
        return losses


@pytest.mark.parametrize("log_every", [1, 100])
def test_nan_loss_is_one_sentence(data, tmp_path, log_every):
    """Phase, step, which loss, the checkpoint that is still good and what to change; the checkpoint is finite."""
    with pytest.raises(ValueError, match="not finite") as caught:
        fit_in(
            tmp_path,
            Bad(tiny_net(), OHEM),
            feed_of(data["labelled"]),
            phase_of(log_every=log_every),
        )
    text, latest = str(caught.value), tmp_path / "checkpoints" / "student" / "latest.pt"
    assert "student phase, step 6: loss_sup is not finite" in text
    assert str(latest) in text
    assert "optim.lr" in text
    assert "\n" not in text
    saved = Checkpoints(latest.parent).load()
    assert saved["step"] == 3
    assert all(t.isfinite().all() for t in saved["model"].values())


def test_nan_before_the_first_checkpoint(data, tmp_path):
    """There is no good checkpoint then, and the sentence says so."""
    step = Bad(tiny_net(), OHEM)
    step.first = 0
    with pytest.raises(ValueError, match="step 1: loss_sup is not finite; no checkpoint yet"):
        fit_in(tmp_path, step, feed_of(data["labelled"]), phase_of())
    assert not (tmp_path / "checkpoints").exists()


def test_weights_that_are_not_numbers_are_never_saved(data, tmp_path):
    """A finite loss with a broken gradient right before a save must not replace the last good checkpoint."""
    step = Bad(tiny_net(), OHEM)
    step.where = "gradient"  # breaks the weights at step 6, which is saved
    with pytest.raises(ValueError, match="not finite"):
        fit_in(tmp_path, step, feed_of(data["labelled"]), phase_of())
    saved = Checkpoints(tmp_path / "checkpoints" / "student").load()
    assert all(t.isfinite().all() for t in saved["model"].values())


def test_a_resumed_run_with_the_same_bad_luck_says_the_same(data, tmp_path):
    """Running the command again after a NaN goes on from the good checkpoint and ends in the same sentence."""
    said = []
    for _ in range(2):
        with pytest.raises(ValueError, match="not finite") as caught:
            fit_in(tmp_path, Bad(tiny_net(), OHEM), feed_of(data["labelled"]), phase_of())
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert [r["step"] for r in rows(tmp_path)] == [1, 2, 3, 4, 5]
