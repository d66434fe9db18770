"""The monitor: its formulas beside plain loops, its limit cases, and what makes a collapse."""

import itertools
import time
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mkd.teacher.api import TeacherStats
from mkd.train.pseudo.monitor import ROLLBACKS, ROWS, Collapsed, PseudoLabelMonitor
from mkd.train.pseudo.teacher_metrics import service_figures
from tests.helpers.processes.threads import on_threads
from tests.helpers.shards import CLASSES


def health_with(histogram=(30, 50, 20), good=None):
    said = []
    return PseudoLabelMonitor(CLASSES, histogram, said.append, TeacherStats(), good), said


def answer(*classes, size=100, inside=None):
    """Give one tile of `size` pixels, the first of them kept as these (class, pixels), the others dropped."""
    labels = torch.full((1, 1, size), 255, dtype=torch.uint8)
    kept = [c for c, n in classes for _ in range(n)]
    labels[0, 0, : len(kept)] = torch.tensor(kept, dtype=torch.uint8)
    where = torch.zeros(1, 1, size, dtype=torch.bool)
    where[..., : size if inside is None else inside] = True
    return labels, where, torch.tensor([0.5]), torch.tensor([bool(kept)])


def rows(health, *answers):
    """Report once for each answer, and check each; return the figures."""
    found = []
    for given_ in answers:
        health.add(*given_)
        found.append(health.report())
        health.check()
    return found


HEALTHY = answer((0, 20), (1, 40), (2, 10))
TAKEN = answer((0, 99))
EMPTY = answer()


@given(
    st.lists(
        st.lists(
            st.lists(st.sampled_from([0, 1, 2, 255, None]), min_size=4, max_size=4), min_size=1, max_size=3
        ),
        min_size=1,
        max_size=4,
    ),
    st.lists(st.integers(0, 9), min_size=3, max_size=3).filter(any),
)
def test_figures_beside_plain_loops(batches, histogram):
    """Kept shares, histogram distance, mean entropy and accepted share over all answers since the last report."""
    health = PseudoLabelMonitor(CLASSES, histogram, print, TeacherStats())
    pixels, scores, accepted = [], [], []
    for batch in batches:
        labels = torch.tensor([[255 if v is None else v for v in tile] for tile in batch], dtype=torch.uint8)
        inside = torch.tensor([[v is not None for v in tile] for tile in batch])
        score = torch.tensor([n / 4 for n in range(len(batch))])
        passed = torch.tensor([any(v not in (255, None) for v in tile) for tile in batch])
        health.add(labels[:, None], inside[:, None], score, passed)
        pixels += [v for tile in batch for v in tile if v is not None]
        scores += score.tolist()
        accepted += passed.tolist()
    figures = health.report()
    kept = [sum(v == c for v in pixels) for c in range(3)]
    share = [k / len(pixels) if pixels else 0 for k in kept]
    assert list(figures.groups["kept"].values()) == pytest.approx(share)
    assert list(figures.groups["kept"]) == list(CLASSES)
    p = [k / sum(kept) if sum(kept) else 0 for k in kept]
    q = [n / sum(histogram) for n in histogram]
    assert figures.values == pytest.approx(
        {
            "kept_tiles": sum(accepted) / len(accepted),
            "kept_pixels": sum(share),
            "tile_entropy": sum(scores) / len(scores),
            "class_shift": sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2,
        }
    )


def test_limit_cases():
    """Nothing kept: all shares 0; the labelled set's own histogram: no shift; disjoint classes: a shift of 1."""
    health, _ = health_with((20, 40, 10))
    nothing, usual = rows(health, EMPTY, HEALTHY)
    assert nothing.values["kept_pixels"] == nothing.values["kept_tiles"] == 0
    assert usual.values["class_shift"] == pytest.approx(0)
    assert usual.values["kept_pixels"] == pytest.approx(0.7)
    health, _ = health_with((0, 10, 10))
    assert rows(health, TAKEN)[0].values["class_shift"] == 1


def test_a_report_begins_anew():
    """What was reported counts no more."""
    health, _ = health_with()
    first, second = rows(health, HEALTHY, TAKEN)
    assert second.groups["kept"] == {"field": 0.99, "road": 0, "water": 0}
    assert first.groups["kept"]["road"] == 0.4


def test_pixels_outside_the_tile_do_not_count():
    """Shares are of the pixels inside."""
    health, _ = health_with()
    (figures,) = rows(health, answer((0, 20), inside=40))
    assert figures.values["kept_pixels"] == 0.5


@pytest.mark.parametrize("bad", [TAKEN, EMPTY, answer((1, 1), size=2000)])
def test_a_collapse_is_said_once(bad):
    """One class, or almost nothing kept, in ROWS rows in a row: one warning; again only after a recovery."""
    health, said = health_with()
    rows(health, *[bad] * (ROWS - 1), HEALTHY, *[bad] * (ROWS - 1))
    assert said == []
    rows(health, *[bad] * 10)
    assert len(said) == 1
    rows(health, HEALTHY, *[bad] * ROWS)
    assert len(said) == 2
    assert said[0].startswith("warning: the pseudo-labels have collapsed: in 5 rows")


def test_a_warning_names_class_and_shares():
    """The sentence has the class, its share and the labelled set's, or the kept share and the floor."""
    health, said = health_with()
    rows(health, *[TAKEN] * ROWS, HEALTHY, *[EMPTY] * ROWS)
    assert "'field' has 100.0% of the kept pixels and 30.0% of the labelled ones" in said[0]
    assert "0.00% of the pixels were kept (less than 0.1%)" in said[1]


@pytest.mark.parametrize(
    ("histogram", "classes", "collapsed"),
    [
        ((79, 21, 0), [(0, 96), (1, 4)], True),
        ((80, 20, 0), [(0, 96), (1, 4)], False),  # the labelled set is like this
        ((79, 21, 0), [(0, 95), (1, 5)], False),  # not more than 0.95
        ((80, 20, 0), [(1, 96), (0, 4)], True),  # another class than the labelled set's
    ],
)
def test_where_a_class_has_taken_over(histogram, classes, collapsed):
    """More than 0.95 of the kept pixels, of a class with less than 0.8 of the labelled ones."""
    health, said = health_with(histogram)
    rows(health, *[answer(*classes)] * ROWS)
    assert bool(said) is collapsed


def test_the_floor_itself_is_enough():
    """A kept share of exactly 0.001 is no collapse."""
    health, said = health_with()
    rows(health, *[answer((0, 1), (1, 1), size=2000)] * ROWS)
    assert said == []


def test_rollback_needs_a_good_checkpoint():
    """With one the run is to go back, without one it is warned and goes on."""
    health, said = health_with(good=lambda: False)
    rows(health, *[TAKEN] * ROWS)
    assert "no good checkpoint" in said[0]
    health, _ = health_with(good=lambda: True)
    with pytest.raises(Collapsed, match="'field'"):
        rows(health, *[TAKEN] * ROWS)


def test_too_many_rollbacks_end_the_run():
    """After the third rollback the next collapse is a sentence for the user."""
    health, _ = health_with(good=lambda: True)
    health.load_state_dict({**health.state_dict(), "rollbacks": ROLLBACKS})
    with pytest.raises(ValueError, match="after 3 rollbacks; raise semi.confidence"):
        rows(health, *[TAKEN] * ROWS)


def test_what_is_kept_to_go_back_to():
    """A state is good while no row was bad; without rollback none is kept."""
    health, _ = health_with(good=lambda: True)
    assert health.keeps
    rows(health, TAKEN)
    assert not health.keeps
    rows(health, HEALTHY)
    assert health.keeps
    assert not health_with()[0].keeps


def test_trust_is_halved_by_rollbacks():
    """w_u is taken times 1, 1/2, 1/4, 1/8."""
    health, _ = health_with()
    for rollbacks, trust in enumerate((1.0, 0.5, 0.25, 0.125)):
        health.load_state_dict({**health.state_dict(), "rollbacks": rollbacks})
        assert health.weight_factor == trust


@pytest.mark.parametrize("kill", range(1, 8))
def test_goes_on_from_a_checkpoint(kill):
    """Killed after any row and started again, the collapse is said at the same row."""
    answers = [HEALTHY, EMPTY, HEALTHY, *[TAKEN] * 3, *[EMPTY] * 4]
    health, said = health_with()
    rows(health, *answers[:kill])
    again, said_again = health_with()
    again.load_state_dict(health.state_dict())
    rows(again, *answers[kill : 2 + ROWS])
    assert said + said_again == []
    rows(again, *answers[max(kill, 2 + ROWS) :])
    assert len(said + said_again) == 1


def test_a_checkpoint_between_two_reports():
    """What was seen since the last report counts for the next one after a return to the checkpoint, once."""
    whole, again = health_with()[0], health_with()[0]
    for health in (whole, again):
        health.add(*HEALTHY)
        health.report()
        health.add(*TAKEN)
    state = again.state_dict()
    again = health_with()[0]
    again.load_state_dict(state)
    for health in (whole, again):
        health.add(*HEALTHY)
    assert whole.report() == again.report()
    assert whole.report() == again.report()


def test_a_service_is_reported_in_differences():
    """Waiting is a share of the time, ages are counted, and a teacher in this process has neither."""
    tally = TeacherStats()
    health = PseudoLabelMonitor(CLASSES, (1, 1, 1), print, tally)
    (local,) = rows(health, HEALTHY)
    assert not {"wait_teacher", "age"} & set(local.values)
    assert set(local.groups) == {"kept"}
    tally.tiles, tally.wait_s, tally.retries = 8, 1e9, 2
    tally.ages.update({0: 1, 2: 3})
    tally.age_steps.update({1: 1, 7: 3})
    (first,) = rows(health, HEALTHY)
    assert first.values["wait_teacher"] == 1  # a share
    assert first.values["age"] == 1.5
    assert first.groups["ages"] == {"0": 1, "2": 3}
    assert first.groups["age_steps"] == {"1": 1, "7": 3}
    assert first.groups["teacher"] == {"retries": 2, "stale": 0, "local": 0}
    tally.ages[2] += 1
    (second,) = rows(health, HEALTHY)
    assert second.values["wait_teacher"] == 0
    assert second.values["age"] == 2
    assert second.groups["ages"] == {"2": 1}
    assert second.groups["teacher"]["retries"] == 0


def test_the_wait_is_a_share_of_the_time_between_rows(monkeypatch):
    """3 of 12 seconds are a quarter."""
    clock = itertools.count(100, 12)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    tally = TeacherStats()
    health = PseudoLabelMonitor(CLASSES, (1, 1, 1), print, tally)
    tally.tiles, tally.wait_s = 1, 3.0
    (figures,) = rows(health, HEALTHY)
    assert figures.values["wait_teacher"] == 0.25


ANSWERS = [HEALTHY, TAKEN, EMPTY, answer((0, 3), (2, 30), inside=40), answer((1, 7)), HEALTHY]


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_report_as_one(ranks):
    """Each rank saw its part of the answers; all report what one rank that saw all of them reports."""
    whole, _ = health_with()
    for given_ in ANSWERS:
        whole.add(*given_)
    expected = whole.report()

    def rank_of(world):
        health = PseudoLabelMonitor(CLASSES, (30, 50, 20), print, TeacherStats(), world=world)
        for given_ in ANSWERS[world.rank :: ranks]:
            health.add(*given_)
        return health.report()

    for figures in on_threads(ranks, rank_of):
        assert figures.values == pytest.approx(expected.values, rel=1e-12)
        assert figures.groups == expected.groups


def test_ranks_decide_as_one():
    """A collapse that only one rank sees is none; of all ranks together it is one, and the first rank's disk counts."""

    def rank_of(world):
        said, good = [], world.is_main
        health = PseudoLabelMonitor(CLASSES, (30, 50, 20), said.append, TeacherStats(), lambda: good, world)
        for _ in range(ROWS):
            rows(health, TAKEN if world.is_main else HEALTHY)
        bad_rows = health.bad_rows
        for _ in range(ROWS - 1):
            rows(health, TAKEN)
        with pytest.raises(Collapsed):
            rows(health, TAKEN)
        return said, bad_rows

    assert on_threads(2, rank_of) == [([], 0)] * 2


def test_ranks_report_their_teachers_together():
    """The longest wait is it, counts and ages add up, though ranks know other ages and one was not answered yet."""
    tallies = [
        TeacherStats(tiles=8, wait_s=1.0, retries=2, ages=Counter({0: 1, 4: 3}), age_steps=Counter({9: 4})),
        TeacherStats(tiles=4, wait_s=3.0, stale=1, ages=Counter({4: 2}), age_steps=Counter({0: 2})),
        TeacherStats(),
    ]

    def rank_of(world):
        return service_figures(TeacherStats(), tallies[world.rank], 10.0, world)

    for values, groups in on_threads(3, rank_of):
        assert values == pytest.approx({"wait_teacher": 0.3, "age": 20 / 6})
        assert groups == {
            "teacher": {"retries": 2, "stale": 1, "local": 0},
            "ages": {"0": 1, "4": 5},
            "age_steps": {"0": 2, "9": 4},
        }
    assert (
        on_threads(2, lambda world: service_figures(TeacherStats(), TeacherStats(), 1.0, world))
        == [({}, {})] * 2
    )
