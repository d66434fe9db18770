"""The teacher in the student's process: EMA weights, eval mode, filtered labels, and a resume to the bit."""

import contextlib
import copy

import numpy as np
import pytest
import torch

from mkd.semi.ema import EMA
from mkd.semi.entropy import TileLimit
from mkd.teacher.local import LocalTeacher
from tests.helpers import references
from tests.helpers.processes.threads import on_threads
from tests.helpers.training.nets import perturb, tiny_net


def teacher_of(student, confidence=0.4, limit=None, max_decay=0.9):
    return LocalTeacher(student, max_decay, confidence, limit or TileLimit(absolute=1.0))


def weak_views(seed=0, batch=4):
    return torch.tensor(np.random.default_rng(seed).integers(0, 256, (batch, 3, 6, 5)), dtype=torch.uint8)


def same(one, other):
    return torch.equal(one.labels, other.labels) and torch.equal(one.score, other.score)


def test_labels_are_those_of_the_formula():
    """The answer is softmax of the network at images / 255, with 255 where tile or pixel is dropped."""
    student = tiny_net()
    with torch.no_grad():
        student[4].weight *= 20  # some sure pixels
    teacher, images = teacher_of(student, 0.6, TileLimit(absolute=0.8)), weak_views()
    answer = teacher.label(images, 0.0)
    with torch.no_grad():
        logits = copy.deepcopy(student).eval()(images.float() / 255).double().numpy()
    kept = 0
    for n, tile in enumerate(logits):
        rows = [z for (z,) in references.pixels(tile[None])]
        score = sum(references.entropy(z) for z in rows) / len(rows)
        assert answer.score[n].item() == pytest.approx(score, rel=1e-4)
        assert answer.accepted[n].item() == (score <= 0.8)
        for z, label in zip(rows, answer.labels[n].flatten().tolist(), strict=True):
            p = references.softmax(z)
            sure = max(p) >= 0.6 and score <= 0.8
            assert label == (p.index(max(p)) if sure else 255)
            kept += sure
    assert 0 < kept < answer.labels.numel(), "the case must have kept and dropped pixels"


@pytest.mark.parametrize("views", ["flips", "d4"])
def test_labels_of_several_views_are_of_their_mean(views):
    """With views= the filters see the mean of the softmax over flipped (and turned) tiles, turned back."""
    student, images = tiny_net(), weak_views()
    with torch.no_grad():
        student[4].weight *= 20
    answer = LocalTeacher(student, 0.9, 0.6, TileLimit(absolute=0.8), views=views).label(images, 0.0)
    model, total = copy.deepcopy(student).eval(), torch.zeros(4, 3, 6, 5, dtype=torch.float64)
    turns = range(4) if views == "d4" else (0, 2)
    with torch.no_grad():
        for turn in turns:
            for mirror in (False, True):
                view = torch.rot90(images.flip(3) if mirror else images, turn, (2, 3))
                back = torch.rot90(model(view.float() / 255).double().softmax(1), -turn, (2, 3))
                total += (back.flip(3) if mirror else back) / (2 * len(turns))
    top, labels = total.max(dim=1)
    score = -(total * total.log()).sum(dim=1).mean(dim=(1, 2)) / np.log(3)
    torch.testing.assert_close(answer.score.double(), score, rtol=1e-5, atol=1e-6)
    assert torch.equal(answer.accepted, score <= 0.8)
    clear = (top - 0.6).abs() > 1e-5
    wanted = labels.masked_fill((top < 0.6) | ~answer.accepted[:, None, None], 255)
    assert torch.equal(answer.labels[clear].long(), wanted[clear])
    single = teacher_of(student, 0.6, TileLimit(absolute=0.8)).label(images, 0.0)
    assert not torch.equal(single.score, answer.score)


def test_follows_the_ema():
    """After each update the network holds a theta_T + (1 - a) theta_S, buffers included."""
    student = tiny_net()
    teacher, ema = teacher_of(student), EMA(student, 0.9)
    for step in range(12):
        perturb(student, step)
        teacher.follow(student)
        ema.update(student)
        for name, t in teacher.model.state_dict().items():
            assert torch.equal(t, ema.state[name]), name
    assert teacher.label(weak_views(), 0.0).version == 12


def test_the_network_uses_the_averages_own_tensors():
    """There is one copy of the weights: what the EMA updates is what the network computes with."""
    teacher = teacher_of(tiny_net())
    for name, t in teacher.model.state_dict().items():
        assert t.data_ptr() == teacher.ema.state[name].data_ptr(), name


def test_an_update_shows_in_the_next_answer():
    """Labels come from the moved weights at once."""
    student, images = tiny_net(), weak_views()
    teacher = teacher_of(student)
    before = teacher.label(images, 0.0)
    perturb(student, 1, scale=2.0)
    assert same(teacher.label(images, 0.0), before)  # training the student alone changes nothing
    teacher.follow(student)
    assert not same(teacher.label(images, 0.0), before)


def test_answers_in_eval_mode_and_learns_nothing():
    """No dropout, no batch statistics, no gradient: a tile's answer is its own, and leaves no trace."""
    student, images = tiny_net().train(), weak_views()
    teacher = teacher_of(student)
    before = {n: t.clone() for n, t in teacher.model.state_dict().items()}
    answer = teacher.label(images, 0.0)
    assert student.training
    assert not any(m.training for m in teacher.model.modules())
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert all(p.requires_grad for p in student.parameters())
    for n in range(len(images)):
        alone = teacher.label(images[n : n + 1], 0.0)
        assert torch.equal(alone.labels[0], answer.labels[n])
    assert all(torch.equal(t, before[n]) for n, t in teacher.model.state_dict().items())


def test_a_bfloat16_student_has_a_float32_teacher():
    """Whatever the student's dtype, the average and the network that labels are float32."""
    student = tiny_net().bfloat16()
    teacher = teacher_of(student)
    teacher.follow(student)
    assert {t.dtype for t in teacher.model.state_dict().values()} == {torch.float32, torch.int64}
    assert teacher.label(weak_views(), 0.0).score.dtype == torch.float32


def test_the_tile_filter_looks_at_earlier_batches():
    """tau comes from the scores seen before this batch, and this batch's scores count from the next on."""
    student = tiny_net()
    teacher = teacher_of(student, limit=TileLimit(drop_start=0.5, drop_end=0.5))
    first = teacher.label(weak_views(0), 0.0)
    assert first.accepted.all()  # nothing is known yet
    tau = np.quantile(first.score.double().numpy(), 0.5)
    second = teacher.label(weak_views(1), 0.0)
    assert second.accepted.tolist() == (second.score.double().numpy() <= tau).tolist()
    assert (second.labels != 255).any()
    assert (second.labels[~second.accepted] == 255).all()


def test_the_filter_follows_progress():
    """The share dropped is the schedule's at the given progress: half at the start, none at the end."""
    teacher = teacher_of(tiny_net(), limit=TileLimit(drop_start=0.5, drop_end=0.0))
    teacher.label(weak_views(0, batch=16), 0.0)
    start = copy.deepcopy(teacher).label(weak_views(0, batch=16), 0.0)
    end = copy.deepcopy(teacher).label(weak_views(0, batch=16), 1.0)
    assert start.accepted.sum() == 8
    assert end.accepted.all()


def test_the_forward_pass_runs_in_the_given_precision():
    """`autocast` is entered around the network, and the answer is filtered in float32 all the same."""
    seen = []

    @contextlib.contextmanager
    def bf16():
        with torch.autocast("cpu", torch.bfloat16):
            seen.append(torch.is_autocast_enabled("cpu"))
            yield

    teacher = LocalTeacher(tiny_net(), 0.9, 0.4, TileLimit(absolute=1.0), autocast=bf16)
    assert teacher.label(weak_views(), 0.0).score.dtype == torch.float32
    assert seen == [True]


def test_goes_on_from_a_checkpoint():
    """A teacher that took up the state answers and follows like the one that was never stopped."""
    student = tiny_net()
    teacher = teacher_of(student, limit=TileLimit(drop_start=0.5, drop_end=0.5))
    for step in range(3):
        perturb(student, step)
        teacher.follow(student)
        teacher.label(weak_views(step), 0.1)
    other = teacher_of(tiny_net(seed=7), limit=TileLimit(drop_start=0.5, drop_end=0.5))
    other.load_state_dict(copy.deepcopy(teacher.state_dict()))
    for step in range(3, 6):
        one, two = (t.label(weak_views(step), 0.2) for t in (teacher, other))
        assert same(one, two)
        assert (one.version, one.accepted.tolist()) == (two.version, two.accepted.tolist())
        perturb(student, step)
        teacher.follow(student)
        other.follow(student)
    assert teacher.tile_limit.limit(0.2) == other.tile_limit.limit(0.2) < 1


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_filter_as_one(ranks):
    """Each rank labels its part; tau is that of the whole batches, so that tiles are accepted as by one rank."""
    limits = {"drop_start": 0.5, "drop_end": 0.5, "window": 10}
    alone = teacher_of(tiny_net(), limit=TileLimit(**limits))
    expected = [alone.label(weak_views(n), 0.0).accepted.tolist() for n in range(4)]
    assert not all(expected[-1]), "the case must reject tiles"
    nets = [tiny_net() for _ in range(ranks)]  # seeds torch's one generator

    def rank_of(world):
        limit = TileLimit(**limits)
        teacher = LocalTeacher(nets[world.rank], 0.9, 0.4, limit, gather=world.gather)
        part = slice(world.rank * 4 // ranks, (world.rank + 1) * 4 // ranks)
        answers = [teacher.label(weak_views(n)[part], 0.0).accepted.tolist() for n in range(4)]
        return answers, limit.limit(0.0)

    results = on_threads(ranks, rank_of)
    for n, accepted in enumerate(expected):
        assert [flag for answers, _ in results for flag in answers[n]] == accepted
    assert [limit for _, limit in results] == pytest.approx([alone.tile_limit.limit(0.0)] * ranks, abs=1e-6)
