"""The tile and pixel filters against a pixel loop, their limits, and the schedule of tau."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mkd.semi.entropy import TileLimit, filter_pseudo_labels, normalised_entropy
from tests.helpers import references


def logits_case(seed=0, batch=3, classes=4, spread=3.0):
    return torch.tensor(
        np.random.default_rng(seed).normal(0, spread, (batch, classes, 3, 4)), dtype=torch.float32
    )


def slow_entropy(logits):
    return [
        [references.entropy(z) for (z,) in references.pixels(tile[None])] for tile in logits.double().numpy()
    ]


def slow_filter(logits, confidence, tile_limit):
    """Labels (255 = dropped), tile scores and accepted tiles, pixel by pixel."""
    scores = [sum(tile) / len(tile) for tile in slow_entropy(logits)]
    labels = []
    for tile, score in zip(logits.double().numpy(), scores, strict=True):
        for (z,) in references.pixels(tile[None]):
            p = references.softmax(z)
            sure = max(p) >= confidence and score <= tile_limit
            labels.append(p.index(max(p)) if sure else 255)
    return np.array(labels).reshape(len(logits), *logits.shape[2:]), scores, [s <= tile_limit for s in scores]


@pytest.mark.parametrize("classes", [2, 6, 17])
def test_entropy_equals_the_pixel_loop(classes):
    """h = -sum p log p / log C at every pixel."""
    logits = logits_case(classes=classes)
    expected = np.array(slow_entropy(logits)).reshape(3, 3, 4)
    np.testing.assert_allclose(normalised_entropy(logits), expected, rtol=1e-4, atol=1e-6)


def test_entropy_of_sure_and_of_one_class():
    """All mass on one class is 0, with -inf for the rest as well; a single class leaves no doubt."""
    sure = torch.tensor([0.0, -torch.inf, -torch.inf]).view(1, 3, 1, 1)
    assert normalised_entropy(sure).item() == 0
    assert normalised_entropy(1e4 * sure.nan_to_num(neginf=-1.0)).item() == 0
    assert torch.equal(normalised_entropy(logits_case(classes=1)), torch.zeros(3, 3, 4))


@pytest.mark.parametrize("classes", [2, 3, 6, 7, 17, 19])
def test_entropy_of_no_idea_is_one(classes):
    """Equal logits give 1, and not a rounding more, or 'accept all' (tau = 1) would reject the tile."""
    h = normalised_entropy(torch.zeros(1, classes, 4, 4))
    np.testing.assert_allclose(h, 1, rtol=1e-6)
    assert h.max() <= 1, f"h is {h.max().item():.9f}"
    assert filter_pseudo_labels(torch.zeros(1, classes, 4, 4), 0.95, tile_limit=1.0).accepted.all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.floats(0, 30))
def test_entropy_lies_between_zero_and_one(seed, classes, spread):
    """h is in [0,1] for any logits, nearly equal ones included."""
    h = normalised_entropy(logits_case(seed, classes=classes, spread=spread))
    assert h.dtype == torch.float32
    assert h.min() >= 0
    assert h.max() <= 1, f"h is {h.max().item():.9f} for C = {classes}"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(-20, 20), st.permutations(range(5)))
def test_entropy_ignores_shift_and_order_of_classes(seed, shift, order):
    """Only the set of probabilities matters."""
    logits = logits_case(seed, classes=5)
    moved = normalised_entropy((logits + shift)[:, order])
    np.testing.assert_allclose(moved, normalised_entropy(logits), rtol=1e-3, atol=1e-5)


def filter_case():
    """A sure tile, a doubtful one, and one between."""
    return logits_case(seed=3) * torch.tensor([4.0, 0.3, 1.0]).view(3, 1, 1, 1)


@pytest.mark.parametrize(
    ("confidence", "tile_limit"), [(0.8, 0.45), (0.95, 1.0), (0.0, 0.4), (0.99, 0.45), (0.8, 0.0)]
)
def test_filter_equals_the_pixel_loop(confidence, tile_limit):
    """A pixel keeps its label when it is sure and its tile's mean entropy is low; the rest is 255."""
    logits = filter_case()
    answer = filter_pseudo_labels(logits, confidence, tile_limit, version=7)
    labels, scores, accepted = slow_filter(logits, confidence, tile_limit)
    np.testing.assert_array_equal(answer.labels, labels)
    np.testing.assert_allclose(answer.score, scores, rtol=1e-4)
    assert answer.accepted.tolist() == accepted
    assert (answer.labels.dtype, answer.version) == (torch.uint8, 7)


def test_filter_drops_and_keeps_in_the_case_above():
    """The case has accepted and rejected tiles, and sure and unsure pixels in an accepted one."""
    answer = filter_pseudo_labels(filter_case(), 0.8, 0.45)
    assert {True, False} == set(answer.accepted.tolist())
    assert 0 < (answer.labels[answer.accepted] == 255).float().mean() < 1


def test_the_limits_themselves_are_kept():
    """Both tests include their bound: confidence equal to max p, tau equal to the tile's score."""
    logits = logits_case(batch=1)
    top = torch.softmax(logits, dim=1).amax(dim=1)
    score = filter_pseudo_labels(logits, 0.0, 1.0).score.item()
    answer = filter_pseudo_labels(logits, top.min().item(), score)
    assert answer.accepted.all()
    assert (answer.labels != 255).all()
    assert not filter_pseudo_labels(logits, 0.0, score * 0.999).accepted.any()


def test_open_and_shut_filters():
    """Confidence 0 with tau 1 keeps the most probable class everywhere; tau 0 keeps no doubtful tile."""
    logits = logits_case()
    assert torch.equal(filter_pseudo_labels(logits, 0.0, 1.0).labels.long(), logits.argmax(dim=1))
    assert (filter_pseudo_labels(logits, 0.0, 0.0).labels == 255).all()


def test_a_teacher_gone_nan_labels_nothing():
    """NaN logits are dropped, not taken for class 0."""
    assert (filter_pseudo_labels(torch.full((1, 3, 2, 2), torch.nan), 0.95, 1.0).labels == 255).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=6, max_size=6), st.floats(0, 30))
def test_confidence_makes_a_pixel_entropy_test_needless(rest, lead):
    """With C = 6 a pixel of max p >= 0.95 has h <= 0.156, so a test of h per pixel would add nothing."""
    logits = torch.tensor(rest).view(1, 6, 1, 1)
    logits[0, 2] += lead
    kept = filter_pseudo_labels(logits, 0.95, 1.0).labels != 255
    assert not kept.any() or normalised_entropy(logits).item() <= 0.156


def test_tau_absolute_ignores_scores():
    """An absolute tau is the same at any progress and after any scores."""
    limit = TileLimit(absolute=0.3)
    limit.observe(torch.tensor([0.9, 0.8]))
    assert [limit.limit(u) for u in (0.0, 0.5, 1.0)] == [0.3, 0.3, 0.3]


def test_tau_accepts_all_before_any_score_and_at_share_zero():
    """Nothing is known at the first batch, and a share of 0 drops nothing: tau is 1."""
    limit = TileLimit(drop_start=0.2, drop_end=0.0)
    assert limit.limit(0.0) == 1
    limit.observe(torch.linspace(0, 1, 11))
    assert limit.limit(1.0) == 1


def test_tau_is_the_scheduled_percentile():
    """The share to drop goes linearly from start to end; tau is the (1 - share) quantile of the scores."""
    limit = TileLimit(drop_start=0.2, drop_end=0.0)
    limit.observe(torch.arange(101) / 100)
    assert [limit.limit(u) for u in (0.0, 0.5, 0.75)] == pytest.approx([0.8, 0.9, 0.95], abs=1e-6)
    assert limit.limit(-1.0) == limit.limit(0.0)  # progress is held in [0,1]
    assert limit.limit(2.0) == limit.limit(1.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.9), st.integers(10, 200))
def test_tau_drops_its_share_of_the_tiles_it_saw(seed, share, count):
    """Of the remembered tiles, the share that tau rejects is the scheduled one, to one tile."""
    scores = torch.rand(count, generator=torch.Generator().manual_seed(seed))
    limit = TileLimit(drop_start=share, drop_end=share)
    limit.observe(scores)
    assert abs((scores > limit.limit(0.3)).sum().item() - share * count) <= 1


def test_tau_forgets_old_tiles():
    """Only the last `window` scores count."""
    limit, fresh = TileLimit(drop_start=0.5, window=4), TileLimit(drop_start=0.5)
    limit.observe(torch.tensor([0.9, 0.9, 0.9, 0.1, 0.2]))
    limit.observe(torch.tensor([0.3, 0.4]))
    fresh.observe(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    assert limit.limit(0.0) == fresh.limit(0.0) == pytest.approx(0.25)


def test_tau_goes_on_from_its_state():
    """A limit that took up another's state gives the same tau, now and after the same new scores."""
    limit, other = TileLimit(window=5), TileLimit(window=5)
    limit.observe(torch.tensor([0.1, 0.5, 0.7, 0.2]))
    other.load_state_dict(limit.state_dict())
    assert other.limit(0.1) == limit.limit(0.1)
    for one in (limit, other):
        one.observe(torch.tensor([0.6, 0.3]))
    assert other.limit(0.1) == limit.limit(0.1)
    assert other.state_dict() == limit.state_dict()


def test_tau_leaves_out_what_nobody_scored():
    """A batch with a NaN, from a rank without a teacher, changes nothing: it will come again."""
    limit = TileLimit(drop_start=0.5)
    limit.observe(torch.tensor([0.1, 0.2, 0.3]))
    before = limit.state_dict()
    limit.observe(torch.tensor([0.9, torch.nan]))
    assert limit.state_dict() == before
