"""The semi-supervised step: L = L_sup + w_u L_cons, on pseudo-labels that are given."""

import copy

import numpy as np
import pytest
import torch

from mkd.distributed.engine import Engine
from mkd.loader.augment import cutmix, strong_colour
from mkd.models.dropout import FeatureDropout, sample_mask, seed_dropout
from mkd.semi.entropy import TileLimit
from mkd.teacher.local import LocalTeacher
from mkd.train.batches import FILTERED, StepBatch
from mkd.train.pseudo.exchange import PseudoBatch
from mkd.train.steps.semi import SemiStep
from mkd.train.steps.supervised import SupervisedLoss
from tests.helpers import references
from tests.helpers.processes.ranks import run_ranks
from tests.helpers.shards import pictures, write_dataset
from tests.helpers.training.nets import tiny_net
from tests.helpers.training.pseudo import Scripted, monitor_of, semi_step_of
from tests.helpers.training.pseudo_ranks import train
from tests.helpers.training.runs import CPU, coloured, feed_of

W_U = 0.6


class Given:
    """Pseudo-labels that were prepared, with a teacher that only follows."""

    def __init__(self, batch, rollbacks=0):
        self.batch, self.asked, self.teacher = batch, [], Scripted([True])
        self.size = len(batch.generators)
        self.monitor = monitor_of(self.teacher)
        self.monitor.rollbacks = rollbacks

    def __call__(self, progress):
        self.asked.append(progress)
        return self.batch


def draws_of(seed=5, batch=2):
    return [np.random.default_rng([seed, n]) for n in range(batch)]


def views_of(seed=0, batch=2, side=12):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (batch, side, side), generator=g, dtype=torch.uint8)
    return StepBatch(torch.rand(batch, 3, side, side, generator=g), labels)


def pseudo_of(seed=1, side=12, labels=None):
    g = torch.Generator().manual_seed(seed)
    weak = torch.randint(0, 256, (2, 3, side, side), generator=g, dtype=torch.uint8)
    if labels is None:
        labels = torch.randint(0, 4, (2, side, side), generator=g, dtype=torch.uint8)
        labels = labels.masked_fill(labels == 3, FILTERED)
    return PseudoBatch(weak, labels, draws_of())


def step_of(pseudo=None, rollbacks=0, **more):
    model, loss = tiny_net(), SupervisedLoss(0.7, 0.1)
    return SemiStep(
        model, Given(pseudo or pseudo_of(), rollbacks), model, loss, W_U, **({"average": "kept"} | more)
    )


def answer(step, views, seed=9):
    step.train()
    torch.manual_seed(seed)
    return step(step.prepare(views, 0.5), False)


@pytest.mark.parametrize("rollbacks", [0, 1, 3])
def test_loss_is_the_named_sum(rollbacks):
    """loss = L_sup(labelled) + w_u L_cons(strong view, pseudo-labels), each from its formula; a rollback halves w_u."""
    step, views = step_of(rollbacks=rollbacks), views_of()
    losses = answer(step, views)
    given, draws = pseudo_of(), draws_of()
    strong = strong_colour(given.weak.float() / 255, draws)
    others = strong.roll(-1, 0), given.labels.roll(-1, 0)
    strong, labels = cutmix(strong, given.labels, *others, draws, 1.0)
    labels = labels.masked_fill(labels == FILTERED, 255)
    student = tiny_net().train()
    torch.manual_seed(9)
    with torch.no_grad():
        z = student(torch.cat([views.images, strong])).double()
    sup = references.ohem(z[:2], views.labels, 0.7, int(0.1 * views.labels.numel()))
    cons = references.cross_entropy(z[2:], labels)
    assert losses["loss_sup"].item() == pytest.approx(sup, rel=1e-4)
    assert losses["loss_cons"].item() == pytest.approx(cons, rel=1e-4)
    assert losses["loss"].item() == pytest.approx(sup + W_U / 2**rollbacks * cons, rel=1e-4)


@pytest.mark.parametrize("paste", [0.0, 1.0])
def test_the_mean_over_valid_pixels(paste):
    """L_cons is the sum over kept pixels over all pixels inside the tiles; pasted boxes hold the labelled tiles'."""
    given, views = pseudo_of(), views_of()
    given.labels[:, :3] = 255  # outside the tile
    step = step_of(given, average="valid", cutmix=0.0, paste=paste)
    batch = step.prepare(views, 0.5)
    draws = draws_of()
    strong = strong_colour(given.weak.float() / 255, draws)
    strong, labels = cutmix(strong, given.labels, strong.roll(-1, 0), given.labels.roll(-1, 0), draws, 0.0)
    if paste:
        strong, labels = cutmix(strong, labels, strong_colour(views.images, draws), views.labels, draws, 1.0)
        assert not torch.equal(labels, given.labels)
    assert torch.equal(batch.strong[:, 0], strong)
    assert batch.pixel_count.item() == (labels != 255).sum().item()
    kept = labels.masked_fill(labels == FILTERED, 255)
    assert torch.equal(batch.pseudo[:, 0], kept)
    assert 0 < (kept != 255).sum() < batch.pixel_count
    step.train()
    torch.manual_seed(9)
    found = step(batch, False)["loss_cons"].item()
    student = tiny_net().train()
    torch.manual_seed(9)
    with torch.no_grad():
        z = student(torch.cat([views.images, strong])).double()
    wanted = references.cross_entropy(z[2:], kept) * (kept != 255).sum() / (labels != 255).sum()
    assert found == pytest.approx(float(wanted), rel=1e-4)


class Dropping(torch.nn.Module):
    """The tiny network, whose first map can lose channels."""

    def __init__(self):
        super().__init__()
        self.net, self.feature_dropout = tiny_net(), FeatureDropout()

    def forward(self, images):
        (first,) = self.feature_dropout([self.net[0](images)])
        return self.net[1:](first)


def test_two_strong_views_and_one_with_dropped_features():
    """L_cons is the mean over all views: two strong ones that follow each other, and the weak one without channels."""
    given, views, p = pseudo_of(), views_of(), 0.5
    step = step_of(given, average="valid", strong_views=2, feature_dropout=p)
    step.model = step.net = Dropping()
    batch = step.prepare(views, 0.5)
    draws, mixes, labels = draws_of(), [], []
    for strong in [strong_colour(given.weak.float() / 255, draws) for _ in range(2)]:
        mixed, mixed_labels = cutmix(
            strong, given.labels, strong.roll(-1, 0), given.labels.roll(-1, 0), draws, 1.0
        )
        mixes.append(mixed)
        labels.append(mixed_labels)
    assert not torch.equal(*mixes)
    mixes.append(given.weak.float() / 255)
    labels.append(given.labels)
    kept = torch.cat(labels).masked_fill(torch.cat(labels) == FILTERED, 255)
    for number, (mixed, its_labels) in enumerate(zip(mixes, kept.split(2), strict=True)):
        assert torch.equal(batch.strong[:, number], mixed)
        assert torch.equal(batch.pseudo[:, number], its_labels)
    step.train()
    seed_dropout(step.model, 3, 4, [0, 1], 2)
    losses = step(batch, False)
    slow = Dropping().train()
    seed_dropout(slow, 3, 4, [0, 1], 2)
    mask = sample_mask(torch.empty(8, 4, 1, 1), 1 - p, torch.tensor([3, 4, 1, 2, 0, 1])) / (1 - p)
    mask[:6] = 1  # labelled tiles and strong views
    with torch.no_grad():
        z = slow.net[1:](slow.net[0](torch.cat([views.images, *mixes])) * mask)
    wanted = references.cross_entropy(z[2:].double(), kept) * (kept != 255).sum() / kept.numel()
    assert losses["loss_cons"].item() == pytest.approx(float(wanted), rel=1e-4)
    sup = references.ohem(z[:2].double(), views.labels, 0.7, int(0.1 * views.labels.numel()))
    assert losses["loss_sup"].item() == pytest.approx(sup, rel=1e-4)
    assert step.model.feature_dropout.last == 0


def test_the_control_uses_the_labels_alone():
    """With w_u = 0 no unlabelled tile is asked for, and the network sees the labelled tiles only."""
    step, views = step_of(), views_of()
    step.weight, seen = 0.0, []
    step.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    losses = answer(step, views)
    assert step.pseudo.asked == []
    assert seen == [2]
    assert losses["loss"].item() == losses["loss_sup"].item() > 0


def test_nothing_kept_leaves_l_sup():
    """With every pseudo-label dropped, L_cons is 0 and the loss is L_sup, gradients finite."""
    step = step_of(pseudo_of(labels=torch.full((2, 12, 12), 255, dtype=torch.uint8)))
    losses = answer(step, views_of())
    losses["loss"].backward()
    assert losses["loss_cons"].item() == 0
    assert losses["loss"].item() == losses["loss_sup"].item()
    assert all(torch.isfinite(p.grad).all() for p in step.model.parameters())


def test_one_batch_a_step_and_one_update():
    """A step asks once for pseudo-labels, with its progress; the teacher follows once an update."""
    step = step_of()
    answer(step, views_of())
    assert step.pseudo.asked == [0.5]
    step.after_update()
    assert step.pseudo.teacher.followed == 1


@pytest.fixture
def feed(tmp_path):
    """A feed of 12 x 12 crops."""
    labelled = write_dataset(tmp_path / "labelled", coloured(2, (12, 12)))
    return feed_of(
        labelled, write_dataset(tmp_path / "other", coloured(4, (12, 12)), labelled=False), crop=12, batch=3
    )


def test_the_local_teacher_learns_by_ema_only(feed):
    """Through training the teacher gets no gradient, stays in eval mode, and moves only by following."""
    model = tiny_net()
    teacher = LocalTeacher(model, 0.99, 0.0, TileLimit(absolute=1.0))
    step = semi_step_of(model, teacher, feed, teacher.model)
    engine = Engine(CPU, model, torch.optim.SGD(model.parameters(), lr=0.1))
    for seed in range(3):
        before = copy.deepcopy(teacher.model.state_dict())
        engine.backward(answer(step, views_of(seed))["loss"])
        engine.update()
        assert all(torch.equal(t, before[n]) for n, t in teacher.model.state_dict().items())
        step.after_update()
    assert not any(torch.equal(p, before[n]) for n, p in teacher.model.named_parameters())
    assert not any(m.training for m in teacher.model.modules())
    assert all(p.grad is None for p in teacher.model.parameters())
    assert step.result is teacher.model


def test_state_is_that_of_teacher_pool_and_monitor(feed):
    """A checkpoint of the step holds all that is needed to go on: the next batches are the same."""
    steps = []
    for seed in (0, 1):
        model = tiny_net(seed=seed)
        teacher = LocalTeacher(model, 0.99, 0.0, TileLimit(drop_start=0.3, drop_end=0.3, window=8))
        steps.append(semi_step_of(model, teacher, feed))
    for _ in range(5):
        answer(steps[0], views_of())
        steps[0].after_update()
    steps[0].pseudo.monitor.bad_rows = 2
    state = copy.deepcopy(steps[0].state_dict())
    assert state["pseudo"]["rows"], "the case must have a pool"
    steps[1].load_state_dict(state)
    assert steps[1].pseudo.monitor.bad_rows == 2
    for _ in range(4):
        mine, theirs = (s.pseudo(0.3) for s in steps)
        assert torch.equal(mine.labels, theirs.labels)
        assert torch.equal(mine.weak, theirs.weak)


def test_two_ranks_train_as_one(tmp_path):
    """26 steps on two real ranks, BatchNorm synchronised, dropout and rejection active: one with the whole batch."""
    write_dataset(tmp_path / "labelled", coloured(6, (20, 20)))
    other = coloured(9, (20, 20), seed=1) + pictures(8, (20, 20), seed=2)
    write_dataset(tmp_path / "other", other, labelled=False)
    alone = train(CPU, str(tmp_path))
    together = run_ranks("tests.helpers.training.pseudo_ranks:train", 2, tmp_path / "out", str(tmp_path))
    assert 0.5 < alone["figures"]["kept_tiles"] < 0.9
    assert 0.3 < alone["figures"]["kept_pixels"] < 0.8
    assert alone["state"]["pool"], "the case must end with a pool"
    for n, row in enumerate(alone["rows"]):
        parts = [rank["rows"][n] for rank in together]
        assert torch.equal(torch.cat([p["pseudo"] for p in parts]), row["pseudo"]), n
        assert torch.allclose(torch.cat([p["strong"] for p in parts]), row["strong"], atol=1e-6), n
        for part in parts:
            assert part["losses"].tolist() == pytest.approx(row["losses"].tolist(), abs=1e-5), n
    for rank in together:
        assert close(rank["model"], alone["model"])
        assert close(rank["state"]["ema"], alone["state"]["ema"])
        assert rank["state"]["pool"] == alone["state"]["pool"]
        assert rank["state"]["tile_limit"]["scores"] == pytest.approx(
            alone["state"]["tile_limit"]["scores"], abs=1e-5
        )
        assert rank["figures"] == pytest.approx(alone["figures"], abs=1e-5)


def close(one, other):
    """Whether all tensors and numbers of two states agree to 1e-5."""
    return one.keys() == other.keys() and all(
        torch.as_tensor(one[k] - other[k]).abs().max() <= 1e-5 for k in one
    )
