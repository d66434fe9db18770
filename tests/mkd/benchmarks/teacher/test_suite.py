"""The benchmark of teachers: its timings, its tables, and all of it run on a few small tiles."""

import json
from types import SimpleNamespace

import pytest
import torch

from mkd.benchmarks.settings import TeacherSpeedRun
from mkd.benchmarks.teacher import suite, timings
from mkd.benchmarks.teacher.services import running_service
from mkd.benchmarks.teacher.suite import cluster_table, table, teachers_by_cluster
from mkd.benchmarks.teacher.timings import (
    MIN_BATCHES,
    ROUND_TRIPS,
    WARM_UP,
    answer_intervals,
    round_trip,
    step_waits,
)
from mkd.config.load import load
from tests.helpers.training.runs import launch

TILES = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)


@pytest.fixture
def clock(monkeypatch):
    """Time that only passes when something is waited for."""
    now = SimpleNamespace(s=0.0)
    ours = SimpleNamespace(perf_counter=lambda: now.s, sleep=lambda s: setattr(now, "s", now.s + s))
    monkeypatch.setattr(timings, "time", ours)
    return now


class Scripted:
    """A teacher on the clock: each batch takes `seconds` once the one before it is done."""

    depth = 2

    def __init__(self, clock, seconds):
        self.clock, self.seconds, self.free = clock, iter(seconds), 0.0
        self.done, self.collected, self.followed, self.most = {}, [], 0, 0

    def submit(self, ticket, images, progress):
        assert images is TILES
        self.free = self.done[ticket] = max(self.free, self.clock.s) + next(self.seconds)
        self.most = max(self.most, len(self.done))

    def collect(self, ticket):
        self.clock.s = max(self.clock.s, self.done.pop(ticket))
        self.collected.append(ticket)

    def follow(self, student):
        self.followed += 1
        self.clock.s += 0.25


def test_intervals_are_those_of_a_busy_teacher(clock):
    """After the warm-up, until the time is up; the teacher always has its depth to do, and ends with nothing."""
    seconds = [9.0] * WARM_UP + [1.0, 2.0, 1.5, 0.5, 3.0] * 10
    teacher = Scripted(clock, seconds)
    assert answer_intervals(teacher, TILES, 7.5) == [1.0, 2.0, 1.5, 0.5, 3.0]
    assert teacher.collected == list(range(WARM_UP + 5 + teacher.depth))
    assert (teacher.most, teacher.done) == (teacher.depth + 1, {})


def test_few_intervals_are_counted_where_one_takes_longer_than_the_time(clock):
    """A slow network is measured on at least so many batches."""
    assert answer_intervals(Scripted(clock, [5.0] * 20), TILES, 0.1) == [5.0] * MIN_BATCHES


def test_a_round_trip_is_the_median_of_single_batches(clock):
    """One at a time: the next is submitted when the last is there."""
    teacher = Scripted(clock, [8.0] + [2.0] * (ROUND_TRIPS - 1))
    assert round_trip(teacher, TILES) == 2.0
    assert teacher.most == 1


@pytest.mark.parametrize(("taught", "wait"), [(1.0, 0.0), (2.0, 0.0), (3.5, 1.5)])
def test_a_student_waits_for_what_its_steps_do_not_hide(clock, taught, wait):
    """Steps of two seconds, of which the EMA is a part, ask two batches ahead."""
    teacher = Scripted(clock, [taught] * 40)
    waits = step_waits(teacher, torch.nn.Identity(), TILES, 2.0, 20.0)
    assert waits == [wait] * 10
    assert teacher.followed == WARM_UP + 10
    assert teacher.most == teacher.depth


def test_the_tables_say_what_is_met_and_missed():
    """Figures at their bounds are met; a number of teachers that does not exist is a dash."""
    one = {"service_vs_bare": 0.9, "tiles_per_s": {"service": 1.8, "bare": 2.0}, "student_wait_share": 0.01}
    found = {
        "service_vs_bare": 0.9,
        "transport_gb_per_s": 0.79,
        "student_wait_share": 0.05,
        "round_trip_s": 0.004,
    }
    lines = table({**found, "of": {"lite0": one}}).splitlines()
    assert [line.split()[-1] for line in lines[:3]] == ["met", "MISSED", "met"]
    assert {line.split()[0] for line in lines[:3]} == set(found) - {"round_trip_s"}
    assert "service 1.80, bare 2.00" in lines[3]
    rows = cluster_table({"1": {"2": 1, "4": 1}, "64": {"2": None, "4": 17}}).splitlines()
    assert rows == [
        "| students | step = 2 x | step = 4 x |",
        "| --- | --- | --- |",
        "| 1 | 1 | 1 |",
        "| 64 | - | 17 |",
    ]


def test_steps_of_the_simulation_count_in_mean_times(monkeypatch):
    """The same shape of times gives the same table, whatever the unit; the transport counts in seconds."""
    monkeypatch.setattr(suite, "STUDENTS", (4, 8))
    monkeypatch.setattr(suite, "STEPS", (2, 8))
    times = [0.8, 1.0, 1.2]
    plain = teachers_by_cluster(times, 0.0)
    assert teachers_by_cluster([100 * t for t in times], 0.0) == plain
    assert plain["8"]["8"] == 1
    assert plain["4"]["2"] == 2
    assert teachers_by_cluster(times, 100.0)["4"]["2"] is None


def test_a_service_that_does_not_start_is_reported():
    """Its own error is printed above."""
    with (
        pytest.raises(ValueError, match="ended before it was ready"),
        running_service("-c", "raise SystemExit(3)"),
    ):
        raise AssertionError("it is not there")


def test_a_service_that_does_not_end_is_killed(monkeypatch):
    """SIGTERM is not waited for without end."""
    monkeypatch.setattr("mkd.benchmarks.teacher.services.SHUTDOWN_S", 0.1)
    deaf = (
        "import signal; signal.signal(15, signal.SIG_IGN); print('ready endpoint=h:1', flush=True); input()"
    )
    with running_service("-c", deaf) as endpoint:
        assert endpoint == "h:1"


def test_all_of_it_on_small_tiles(tmp_path, capsys, monkeypatch):
    """Real services in processes of their own; every figure is there, and the figures agree with each other."""
    monkeypatch.setattr(suite, "STUDENTS", (1, 2))
    file = tmp_path / "found.json"
    small = ("models=[lite0]", "size=32", "classes=3", "batch=2", "rounds=1", "seconds=0.1", "device=cpu")
    assert launch("throughput", "teacher", *small, f"json={file}") == 0
    found = json.loads(file.read_text())
    one = found["of"]["lite0"]
    rates = one["tiles_per_s"]
    assert one["service_vs_bare"] == pytest.approx(rates["service"] / rates["bare"])
    times = one["service_s"]
    assert len(times) >= MIN_BATCHES
    assert rates["service"] == pytest.approx(2 * len(times) / sum(times))
    assert one["step_s"] == pytest.approx(suite.STEP_FACTOR * sum(times) / len(times))
    assert 0 <= one["student_wait_share"] < 1
    assert (found["service_vs_bare"], found["student_wait_share"]) == (
        one["service_vs_bare"],
        one["student_wait_share"],
    )
    assert found["transport_gb_per_s"] > 0
    assert found["round_trip_s"] > 0
    assert found["machine"]["device"] == "cpu"
    assert set(found["teachers_needed"]) == {"1", "2"}
    printed = capsys.readouterr().out
    assert table(found) in printed
    assert cluster_table(found["teachers_needed"]) in printed


@pytest.mark.parametrize("wrong", ["models=[]", "batch=0", "size=16", "seconds=0", "rounds=0", "classes=1"])
def test_a_setting_that_makes_no_sense_is_refused(wrong):
    """The sentence names the key."""
    with pytest.raises(ValueError, match=wrong.split("=")[0]):
        load(TeacherSpeedRun, "teacher", [wrong])


def test_a_model_that_is_not_there_is_named():
    """So that a typo is found before anything is measured."""
    assert launch("throughput", "teacher", "models=[lite9]") == 2
