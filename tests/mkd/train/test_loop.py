"""The one loop: a killed run goes on to the same bits, the best weights win, and gone teachers leave a checkpoint."""

from dataclasses import replace

import pytest
import torch

from mkd.metrics.confusion import ConfusionMatrix
from mkd.teacher.api import TeachersGone
from mkd.teacher.local import LocalTeacher
from mkd.train.run.checkpoint import Checkpoints
from mkd.train.steps.supervised import SupervisedLoss, SupervisedStep
from tests.helpers.shards import write_dataset
from tests.helpers.training.loops import KINDS, OHEM, equal, run, semi, step_and_feed, validation, write_sets
from tests.helpers.training.nets import tiny_net
from tests.helpers.training.runs import coloured, feed_of, fit_in, phase_of, rows


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """One run of each kind that is never stopped, with its weights."""
    found = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        found[kind] = folder, run(folder, data, kind)
    return found


@pytest.mark.parametrize("kills", [[2], [4], [7], [4, 5, 7]])
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_to_the_same_bits(data, whole, tmp_path, kind, kills):
    """Killed before, right after and long after a checkpoint, or thrice: same weights, best and last, same rows."""
    folder, weights = whole[kind]
    for n, kill in enumerate(kills):
        run(tmp_path, data, kind, seed=100 + n if n else 0, kill=kill)
    # Another seed would start elsewhere: what goes on comes from the checkpoint.
    again = run(tmp_path, data, kind, seed=200 if kills[0] >= 3 else 0)
    assert rows(tmp_path) == rows(folder)
    last = [Checkpoints(f / "checkpoints" / "student").load()["model"] for f in (tmp_path, folder)]
    assert equal(*last)
    assert equal(again, weights)


@pytest.mark.parametrize("kind", KINDS)
def test_an_ended_phase_is_not_trained_again(data, whole, tmp_path, kind):
    """A kill between the last checkpoint and the model folder costs no step and gives the same weights."""
    run(tmp_path, data, kind)
    before = rows(tmp_path)
    assert equal(run(tmp_path, data, kind, seed=300), whole[kind][1])
    assert rows(tmp_path) == before


def test_the_cases_above_use_what_they_claim(whole):
    """The filter drops tiles and pixels, and EWC pulls: else a resume would prove nothing."""
    train = [r for r in rows(whole["semi"][0]) if "loss" in r]
    assert min(r["kept_tiles"] for r in train) < 1
    assert any(0 < r["kept_pixels"] < 1 for r in train)
    folder = whole["semi"][0] / "checkpoints" / "student"
    assert Checkpoints(folder).load()["step_state"]["pseudo"]["position"] > 8
    train = [r for r in rows(whole["kd"][0]) if "loss" in r]
    assert min(r["loss_ewc"] for r in train) > 0
    assert "ewc_ratio" in train[4]


def test_rows_come_when_they_should(whole):
    """Training rows every log_every steps and before each save and validation; validation every val_every and last."""
    found = rows(whole["supervised"][0])
    assert [r["step"] for r in found if "loss" in r] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [r["step"] for r in found if "val_miou" in r] == [2, 4, 6, 8]


@pytest.mark.parametrize(("steps", "trained", "validated"), [(9, [4, 5, 8, 9], [5, 9]), (3, [3], [3])])
def test_rows_of_a_sparse_journal(data, tmp_path, steps, trained, validated):
    """With log_every 4, val_every 5, save_every 100 a row comes at these steps and at the last."""
    run(tmp_path, data, "supervised", steps=steps, log_every=4, val_every=5, save_every=100)
    found = rows(tmp_path)
    assert [r["step"] for r in found if "loss" in r] == trained
    assert [r["step"] for r in found if "val_miou" in r] == validated


def test_rows_hold_the_poly_rate_and_the_epoch(whole):
    """lr (1 - step/total)^power of the step that was done, and steps over steps an epoch."""
    for row in rows(whole["supervised"][0]):
        if "loss" in row:
            assert row["lr"] == pytest.approx(0.05 * (1 - (row["step"] - 1) / 8) ** 0.9)
            assert row["epoch"] == pytest.approx(row["step"] / 3, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_problem_is_learnt(tmp_path, data, kind):
    """On two tiles whose class shows in their colour the supervised loss falls by half in 30 steps."""
    two = write_dataset(tmp_path / "two", coloured(2, (16, 16), seed=8))
    step, feed = step_and_feed(kind, 3, two, two, scale=(1.0, 1.0))
    step.loss_sup = SupervisedLoss(1.0, 1.0)
    step.model[3].p = 0.0
    fit_in(tmp_path / "run", step, feed, phase_of(steps=30, lr=0.2, save_every=50))
    losses = [r["loss_sup"] for r in rows(tmp_path / "run")]
    assert sum(losses[-3:]) / 3 < losses[0] / 2


def scores(*pairs):
    """Make a validation that returns these shares of right pixels in turn."""
    wanted = iter(pairs)

    def validate(model):
        right = round(100 * next(wanted))
        matrix = ConfusionMatrix(3)
        matrix.matrix += right * torch.eye(3, dtype=torch.int64) + (100 - right) * torch.ones(
            3, 3, dtype=torch.int64
        )
        return matrix

    return validate


def test_the_start_is_told_once(data, tmp_path, capsys):
    """After the first step, before its row: where the time went."""
    run(tmp_path, data, "supervised")
    said = capsys.readouterr().out
    assert said.count("start-up to first step:") == 1
    assert "data" in said
    assert said.index("start-up") < said.index("step 1/8")


def test_a_file_that_has_changed_is_refused(data, tmp_path):
    """A checkpoint names files that it does not hold by their SHA-256; another one there, or none, is one sentence."""
    run(tmp_path, data, "kd", kill=4, fixed_files={"fisher.safetensors": "a" * 64})
    for fixed_files in ({}, {"fisher.safetensors": "b" * 64}):
        with pytest.raises(
            ValueError, match="was written with another fisher.safetensors; put that file back"
        ):
            run(tmp_path, data, "kd", fixed_files=fixed_files)
    run(tmp_path, data, "kd", fixed_files={"fisher.safetensors": "a" * 64, "more": "c"})


class Counting(SupervisedStep):
    """A step whose network says which step it was: its last bias is the number of updates."""

    def after_update(self):
        with torch.no_grad():
            self.model[4].bias += 1


def counting(folder, data, validate, kill=None):
    model = tiny_net()
    model[4].bias.requires_grad_(False)
    torch.nn.init.zeros_(model[4].bias)
    step = Counting(model, OHEM)
    weights = fit_in(folder, step, feed_of(data["labelled"]), phase_of(), validate, kill)
    return None if weights is None else weights["4.bias"][0].item()


@pytest.mark.parametrize(
    ("shares", "best"),
    [
        ((0.5, 0.9, 0.7, 0.8), 4),
        ((0.9, 0.5, 0.5, 0.5), 2),
        ((0.5, 0.6, 0.6, 0.7), 8),
        ((0.6, 0.6, 0.6, 0.6), 2),
    ],
)
def test_best_weights_are_the_best_validations(data, tmp_path, shares, best):
    """Returned are the weights of the validation with the highest mIoU, the earliest of equals."""
    assert counting(tmp_path, data, scores(*shares)) == best


def test_the_best_survives_a_kill(data, tmp_path):
    """A worse validation after the resume does not replace the best one before it."""
    counting(tmp_path, data, scores(0.9, 0.5), kill=5)  # checkpoint at 3, validations at 2 and 4
    assert counting(tmp_path, data, scores(0.5, 0.6, 0.7)) == 2


def test_without_validation_the_last_weights_are_kept(data, tmp_path):
    """No validation set: the result is the last step's weights."""
    assert counting(tmp_path, data, None) == 8


def test_validation_leaves_training_mode(data, tmp_path):
    """After a validation, which evaluates, the next step trains again: BatchNorm statistics go on moving."""
    step = SupervisedStep(tiny_net(), OHEM)
    means = []

    def validate(model):
        model.eval()
        means.append(model[1].running_mean.clone())
        return scores(0.5)(model)

    fit_in(tmp_path, step, feed_of(data["labelled"]), phase_of(), validate)
    assert all(not torch.equal(a, b) for a, b in zip(means, means[1:], strict=False))


def test_the_step_sees_progress_and_diagnoses_now_and_then(data, tmp_path):
    """progress = step / steps, and every fifth logged step asks for a diagnosis."""
    seen = []

    class Watching(SupervisedStep):
        def prepare(self, views, progress):
            seen.append([progress])
            return views

        def __call__(self, part, measure_gradients):
            seen[-1].append(measure_gradients)
            return super().__call__(part, measure_gradients)

    step = Watching(tiny_net(), OHEM)
    fit_in(tmp_path, step, feed_of(data["labelled"]), phase_of(steps=12, log_every=1))
    assert [p for p, _ in seen] == [n / 12 for n in range(12)]
    assert [n for n, (_, d) in enumerate(seen, 1) if d] == [5, 10]


class Leaving(LocalTeacher):
    """A teacher that is gone when it has answered `answers` times."""

    answers = 5

    def collect(self, ticket):
        if self.answers == 0:
            raise TeachersGone("no teacher has answered for 600 s")
        self.answers -= 1
        return super().collect(ticket)


@pytest.mark.parametrize("answers", [0, 1, 4, 6])
def test_teachers_that_are_gone_leave_a_checkpoint(data, whole, tmp_path, answers):
    """The run ends in the teacher's sentence with a checkpoint of the step before, and goes on to the same bits."""
    feed = feed_of(data["labelled"], data["unlabelled"], crop=16, batch=3)
    step = semi(0, feed, Leaving)
    step.pseudo.teacher.answers = answers
    validate = validation(data)
    with pytest.raises(TeachersGone, match="600 s"):
        fit_in(
            tmp_path,
            step,
            replace(feed, unlabelled=None),
            phase_of(batch=3),
            validate,
            monitor=step.pseudo.monitor,
        )
    saved = Checkpoints(tmp_path / "checkpoints" / "student").load()["step"]
    assert saved == step.pseudo.step <= answers
    weights = run(tmp_path, data, "semi", seed=0)
    folder, expected = whole["semi"]
    assert equal(weights, expected)
    assert rows(tmp_path) == rows(folder)
