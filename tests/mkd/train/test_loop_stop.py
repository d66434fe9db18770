"""The loop, stopped as it was asked to, and its micro-batches."""

import copy
import os
import signal
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from mkd.teacher.api import TeachersGone
from mkd.teacher.local import LocalTeacher
from mkd.train.run import stop_request as stopping
from mkd.train.run.checkpoint import Checkpoints
from mkd.train.run.stop_request import LATER, Stopped, StopRequest
from mkd.train.steps.supervised import SupervisedLoss, SupervisedStep
from tests.helpers.teacher.services import until
from tests.helpers.training.loops import KINDS, equal, run, semi, validation, write_sets
from tests.helpers.training.nets import tiny_net
from tests.helpers.training.runs import CPU, feed_of, fit_in, phase_of, rows


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Runs that are never stopped, by kind and log_every, with their weights."""
    found = {}
    for kind in KINDS:
        for log_every in (1, 3):
            folder = tmp_path_factory.mktemp(kind)
            weights = run(folder, data, kind, log_every=log_every, save_every=100)
            found[kind, log_every] = folder, weights
    return found


@contextmanager
def wish(step, wish=LATER):
    """Let runs be asked to stop after this step."""

    def level_of_all_ranks(self):
        self.asked = getattr(self, "asked", 0) + 1
        return wish if self.asked == step else 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopRequest, "level_of_all_ranks", level_of_all_ranks)
        yield


@pytest.mark.parametrize("log_every", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_goes_on_to_the_same_bits(data, whole, tmp_path, capsys, kind, log_every):
    """Stopped after any step, also between rows and checkpoints: that step is saved, and the end is the same."""
    start = 0
    for count in (1, 1, 2, 3):
        (tmp_path / "stop").touch()
        with wish(count), pytest.raises(Stopped) as stopped:
            run(tmp_path, data, kind, seed=100 * start, log_every=log_every, save_every=100)
        start += count
        assert stopped.value.code == 75
        assert Checkpoints(tmp_path / "checkpoints" / "student").load()["step"] == start
        said = capsys.readouterr().out
        assert f"student: stopped at step {start} of 8; the same command goes on" in said
        assert (tmp_path / "stop").stat().st_mtime == 0  # obeyed
    folder, weights = whole[kind, log_every]
    assert equal(run(tmp_path, data, kind, seed=300, log_every=log_every, save_every=100), weights)
    assert rows(tmp_path) == rows(folder)


class Waiting(LocalTeacher):
    """A teacher that is waited for when it has answered `answers` times, until the run is to stop."""

    answers, wished, wish = 5, None, None

    def collect(self, ticket):
        if self.answers == 0:
            self.wish()
            until(self.is_set_here)
            raise TeachersGone("asked to stop while waiting for a teacher")
        self.answers -= 1
        return super().collect(ticket)


@pytest.mark.parametrize(
    ("kind", "code", "answers"), [("file", 75, 4), (signal.SIGUSR1, 75, 0), (signal.SIGTERM, 143, 1)]
)
def test_stopped_while_it_waits_for_a_teacher(
    data, whole, tmp_path, monkeypatch, capsys, kind, code, answers
):
    """The step before is saved, the status is the wish's, and the run goes on to the same bits."""
    monkeypatch.setattr(stopping, "POLL_SECONDS", 0.0)
    feed = feed_of(data["labelled"], data["unlabelled"], crop=16, batch=3)
    step = semi(0, feed, Waiting)
    teacher, enter = step.pseudo.teacher, StopRequest.__enter__

    def entered(stop):
        teacher.is_set_here = stop.is_set_here
        return enter(stop)

    monkeypatch.setattr(StopRequest, "__enter__", entered)
    teacher.answers = answers
    file = tmp_path / "stop"
    teacher.wish = file.touch if kind == "file" else lambda: os.kill(os.getpid(), kind)
    phase = phase_of(batch=3, log_every=1, save_every=100)
    with pytest.raises(Stopped) as stopped:
        fit_in(
            tmp_path,
            step,
            replace(feed, unlabelled=None),
            phase,
            validation(data),
            monitor=step.pseudo.monitor,
        )
    assert stopped.value.code == code
    saved = Checkpoints(tmp_path / "checkpoints" / "student").load()["step"]
    assert saved == step.pseudo.step <= answers
    assert f"stopped at step {saved} of 8" in capsys.readouterr().out
    folder, weights = whole["semi", 1]
    assert equal(run(tmp_path, data, "semi", seed=0, log_every=1, save_every=100), weights)
    assert rows(tmp_path) == rows(folder)


def test_a_wish_after_the_last_step_changes_nothing(data, whole, tmp_path):
    """The phase has ended, and the wish is heard in the next one."""
    with wish(8):
        weights = run(tmp_path, data, "supervised", save_every=100)
    assert equal(weights, whole["supervised", 1][1])


def test_micro_batches_share_one_update(data, tmp_path):
    """A batch of 4 in 2 parts: each part's loss counts half, values are their mean, masks are those of their places."""
    feed, seen, rates = feed_of(data["labelled"], crop=16, batch=4), [], []

    class Watching(SupervisedStep):
        def __call__(self, part, measure_gradients):
            rates.append([p.grad is not None for p in self.model.parameters()][0])
            seen.append((part, self.model[3].place.tolist(), copy.deepcopy(self.model)))
            return super().__call__(part, measure_gradients)

    step = Watching(tiny_net(), SupervisedLoss(1.0, 1.0))
    reference = tiny_net()
    phase = phase_of(steps=2, batch=4, micro_batches=2, val_every=9, save_every=9)
    fit_in(tmp_path, step, feed, phase)
    assert rates == [False, True] * 2  # gradients are cleared after each second part
    assert [place for _, place, _ in seen] == [[0, n // 2, 0, 4, *([0, 1], [2, 3])[n % 2]] for n in range(4)]
    views = list(feed(0, 2))
    for n, (part, _, _) in enumerate(seen):
        half = slice(2 * (n % 2), 2 * (n % 2) + 2)
        assert torch.equal(part.images, views[n // 2].images[half])
    losses = []
    for part, _, model in seen:
        losses.append(SupervisedLoss(1.0, 1.0)(model.train()(part.images), part.labels, CPU))
    means = [(a + b).item() / 2 for a, b in (losses[:2], losses[2:])]
    assert [r["loss"] for r in rows(tmp_path)] == pytest.approx(means, rel=1e-5)
    first = [
        torch.autograd.grad(loss, [model[0].weight])[0]
        for loss, (_, _, model) in zip(losses[:2], seen, strict=False)
    ]
    start, after = reference[0].weight, seen[2][2][0].weight
    assert torch.allclose(after, start - 0.05 * (sum(first) / 2 + 1e-3 * start), atol=1e-6)
