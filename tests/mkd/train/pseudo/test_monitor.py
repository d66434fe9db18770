"""The monitor: its formulas beside plain loops, its limit cases, and its rows on several ranks."""

import itertools
import time
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mkd.teacher.api import TeacherStats
from mkd.train.pseudo.monitor import PseudoLabelMonitor
from mkd.train.pseudo.teacher_metrics import service_figures
from tests.helpers.processes.threads import on_threads
from tests.helpers.shards import CLASSES
from tests.helpers.training.runs import CPU
from tests.mkd.train.pseudo.answers import EMPTY, HEALTHY, TAKEN, answer, monitor_with, rows


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
    monitor = monitor_with(histogram)
    pixels, scores, accepted = [], [], []
    for batch in batches:
        labels = torch.tensor([[255 if v is None else v for v in tile] for tile in batch], dtype=torch.uint8)
        inside = torch.tensor([[v is not None for v in tile] for tile in batch])
        score = torch.tensor([n / 4 for n in range(len(batch))])
        passed = torch.tensor([any(v not in (255, None) for v in tile) for tile in batch])
        monitor.add(labels[:, None], inside[:, None], score, passed)
        pixels += [v for tile in batch for v in tile if v is not None]
        scores += score.tolist()
        accepted += passed.tolist()
    figures = monitor.report()
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
    monitor = monitor_with((20, 40, 10))
    nothing, usual = rows(monitor, EMPTY, HEALTHY)
    assert nothing.values["kept_pixels"] == nothing.values["kept_tiles"] == 0
    assert usual.values["class_shift"] == pytest.approx(0)
    assert usual.values["kept_pixels"] == pytest.approx(0.7)
    monitor = monitor_with((0, 10, 10))
    assert rows(monitor, TAKEN)[0].values["class_shift"] == 1


def test_a_report_starts_again_at_zero():
    """What was reported counts no more."""
    monitor = monitor_with()
    first, second = rows(monitor, HEALTHY, TAKEN)
    assert second.groups["kept"] == {"field": 0.99, "road": 0, "water": 0}
    assert first.groups["kept"]["road"] == 0.4


def test_pixels_outside_the_tile_do_not_count():
    """Shares are of the pixels inside."""
    monitor = monitor_with()
    (figures,) = rows(monitor, answer((0, 20), inside=40))
    assert figures.values["kept_pixels"] == 0.5


def test_a_checkpoint_between_two_reports():
    """What was seen since the last report counts for the next one after a return to the checkpoint, once."""
    whole, again = monitor_with(), monitor_with()
    for monitor in (whole, again):
        monitor.add(*HEALTHY)
        monitor.report()
        monitor.add(*TAKEN)
    state = again.state_dict()
    again = monitor_with()
    again.load_state_dict(state)
    for monitor in (whole, again):
        monitor.add(*HEALTHY)
    assert whole.report() == again.report()
    assert whole.report() == again.report()


def test_a_service_is_reported_in_differences():
    """Waiting is a share of the time, ages are counted, and a teacher in this process has neither."""
    stats = TeacherStats()
    monitor = PseudoLabelMonitor(CLASSES, (1, 1, 1), stats, CPU)
    (local,) = rows(monitor, HEALTHY)
    assert not {"wait_teacher", "age"} & set(local.values)
    assert set(local.groups) == {"kept"}
    stats.tiles, stats.wait_s, stats.retries = 8, 1e9, 2
    stats.ages.update({0: 1, 2: 3})
    stats.age_steps.update({1: 1, 7: 3})
    (first,) = rows(monitor, HEALTHY)
    assert first.values["wait_teacher"] == 1  # a share
    assert first.values["age"] == 1.5
    assert first.groups["ages"] == {"0": 1, "2": 3}
    assert first.groups["age_steps"] == {"1": 1, "7": 3}
    assert first.groups["teacher"] == {"retries": 2, "stale": 0, "local": 0}
    stats.ages[2] += 1
    (second,) = rows(monitor, HEALTHY)
    assert second.values["wait_teacher"] == 0
    assert second.values["age"] == 2
    assert second.groups["ages"] == {"2": 1}
    assert second.groups["teacher"]["retries"] == 0


def test_the_wait_is_a_share_of_the_time_between_rows(monkeypatch):
    """3 of 12 seconds are a quarter."""
    clock = itertools.count(100, 12)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    stats = TeacherStats()
    monitor = PseudoLabelMonitor(CLASSES, (1, 1, 1), stats, CPU)
    stats.tiles, stats.wait_s = 1, 3.0
    (figures,) = rows(monitor, HEALTHY)
    assert figures.values["wait_teacher"] == 0.25


ANSWERS = [HEALTHY, TAKEN, EMPTY, answer((0, 3), (2, 30), inside=40), answer((1, 7)), HEALTHY]


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_report_as_one(ranks):
    """Each rank saw its part of the answers; all report what one rank that saw all of them reports."""
    whole = monitor_with()
    for given_ in ANSWERS:
        whole.add(*given_)
    expected = whole.report()

    def rank_of(world):
        monitor = monitor_with(world=world)
        for given_ in ANSWERS[world.rank :: ranks]:
            monitor.add(*given_)
        return monitor.report()

    for figures in on_threads(ranks, rank_of):
        assert figures.values == pytest.approx(expected.values, rel=1e-12)
        assert figures.groups == expected.groups


def test_ranks_report_their_teachers_together():
    """The longest wait is it, counts and ages add up, though ranks know other ages and one was not answered yet."""
    of_ranks = [
        TeacherStats(tiles=8, wait_s=1.0, retries=2, ages=Counter({0: 1, 4: 3}), age_steps=Counter({9: 4})),
        TeacherStats(tiles=4, wait_s=3.0, stale=1, ages=Counter({4: 2}), age_steps=Counter({0: 2})),
        TeacherStats(),
    ]

    def rank_of(world):
        return service_figures(TeacherStats(), of_ranks[world.rank], 10.0, world)

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
