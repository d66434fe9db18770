"""The simulation of teachers: closed forms, and a slow reference that ticks and asks as the real client does."""

import math

import numpy as np
import pytest
import torch

from mkd.benchmarks.teacher.simulate import (
    MOST_WAIT,
    WARM_UP,
    Cluster,
    step_begins,
    teachers_needed,
    wait_share,
)
from mkd.teacher.api import TeacherStats
from mkd.teacher.client.endpoint import Endpoint
from mkd.teacher.client.request import PendingRequest
from mkd.teacher.client.request_assignment import RequestAssignment
from mkd.teacher.protocol import Request, WeightsVersion


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize(("time", "step"), [(1.0, 2.0), (1.0, 1.0), (1.0, 0.5), (3.0, 0.25)])
def test_one_student_and_one_teacher_go_at_the_pace_of_the_slower(time, step, depth):
    """A step takes max(S, T), so that the share of waiting is 1 - S / T, or none."""
    share = wait_share([time], Cluster(1, 1, step, depth))
    assert share == pytest.approx(max(0.0, 1 - step / time), abs=1e-9)


@pytest.mark.parametrize("students", [2, 7, 40])
def test_a_teacher_shared_by_all_gives_each_its_part(students):
    """A step takes max(S, N T)."""
    for step in (0.5 * students, 0.999 * students, 1.25 * students):
        share = wait_share([1.0], Cluster(students, 1, step))
        assert share == pytest.approx(max(0.0, 1 - step / students), abs=1e-9)


@pytest.mark.parametrize("step", [0.5, 1.0, 2.5])
def test_exponential_times_give_the_closed_form(step):
    """One batch ahead a step takes max(S, T_n); for T ~ Exp(1) its mean is S + exp(-S)."""
    times = -np.log1p(-(np.arange(4000) + 0.5) / 4000)
    share = wait_share(times, Cluster(1, 1, step, depth=1), steps=40_000)
    assert share == pytest.approx(math.exp(-step) / (step + math.exp(-step)), rel=0.03)


def test_the_way_there_and_back_is_hidden_by_work_ahead():
    """A round trip longer than a step is waited for at depth 1 and costs nothing at depth 3."""
    assert wait_share([1.0], Cluster(1, 3, 2.0, 1, travel_s=3.0)) == pytest.approx(0.5)
    assert wait_share([1.0], Cluster(1, 3, 2.0, 3, travel_s=3.0)) == 0


def dispatch_of(teachers, rank):
    """Return the dispatch of a student whose endpoints are up and never connect, in the order of a rank."""
    endpoints = []
    for number in range(rank, rank + teachers):
        endpoint = Endpoint(str(number % teachers), connection=None)
        endpoint.state, endpoint.header = "up", WeightsVersion("s.0", 0, 0)
        endpoint.max_batch = endpoint.max_tile = 1
        endpoints.append(endpoint)
    return RequestAssignment(endpoints, TeacherStats())


class Reference:
    """The same, tick by tick in whole seconds, with the client's own choice and queues that are lists."""

    def __init__(self, cluster, draws):
        self.cluster, self.draws, self.clock = cluster, iter(draws), [0]
        self.dispatch = [dispatch_of(cluster.teachers, rank) for rank in range(cluster.students)]
        self.queues = [
            [] for _ in range(cluster.teachers)
        ]  # of [request, its student, seconds left, endpoint]
        self.coming = []  # (when, student, endpoint, request)
        self.came = [set() for _ in self.dispatch]
        self.asked, self.collected = [0] * cluster.students, [0] * cluster.students

    def ask(self, student):
        number = self.asked[student]
        self.asked[student] += 1
        request = PendingRequest(
            Request(number, 0.5, 1.0, "s.0", 0), torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
        )
        chosen = self.dispatch[student].choose(request, self.clock[0])
        chosen.hold(request, self.clock[0])
        self.queues[int(chosen.name)].append([request, student, next(self.draws), chosen])

    def teach(self):
        """Let each teacher work for the second that ends now."""
        for queue in self.queues:
            if queue:
                queue[0][2] -= 1
                if queue[0][2] == 0:
                    request, student, _, endpoint = queue.pop(0)
                    self.coming.append((self.clock[0] + self.cluster.travel_s, student, endpoint, request))

    def deliver(self):
        for item in [c for c in self.coming if c[0] == self.clock[0]]:
            self.coming.remove(item)
            _, student, endpoint, request = item
            del endpoint.requests[request.ask.id]
            endpoint.latency.answer(self.clock[0], 1, True)
            self.came[student].add(request.ask.id)

    def begins(self, steps):
        students = range(self.cluster.students)
        for _ in range(self.cluster.depth):
            for student in students:
                self.ask(student)
        begins = [0]
        while len(begins) < steps:
            step = len(begins) - 1
            if self.clock[0] >= begins[-1]:
                for student in students:
                    if self.collected[student] == step and step in self.came[student]:
                        self.collected[student] += 1
                        self.ask(student)
                if min(self.collected) > step:
                    begins.append(self.clock[0] + self.cluster.step_s)
            self.clock[0] += 1
            self.teach()
            self.deliver()
        return begins


@pytest.mark.parametrize("seed", range(60))
def test_the_slow_reference_begins_each_step_at_the_same_second(seed):
    """For random clusters, with the dispatch of the real client."""
    rng = np.random.default_rng(seed)
    students, teachers, depth = (int(rng.integers(1, high)) for high in (7, 5, 4))
    cluster = Cluster(students, teachers, int(rng.integers(1, 12)), depth, int(rng.integers(0, 4)))
    times = rng.integers(1, 10, 20)
    draws = np.random.default_rng(seed).choice(times, students * (40 + depth))
    assert step_begins(times, cluster, 40, seed) == Reference(cluster, draws).begins(40)


def test_the_wait_is_what_steps_take_longer_after_the_warm_up():
    """The share is taken from the begins of the steps that count."""
    cluster = Cluster(3, 2, 1.0)
    begins = step_begins([0.5, 1.5], cluster, WARM_UP + 101, seed=4)
    took = begins[-1] - begins[WARM_UP]
    assert wait_share([0.5, 1.5], cluster, steps=100, seed=4) == pytest.approx((took - 100.0) / took)


@pytest.mark.parametrize(("students", "step"), [(1, 2.0), (5, 2.0), (6, 3.5), (9, 4.0), (16, 12.0)])
def test_the_number_needed_is_the_least_that_is_enough(students, step):
    """One teacher fewer makes the students wait too long."""
    times = [0.8, 0.9, 1.0, 1.1, 1.2]
    needed = teachers_needed(times, students, step)
    shares = [wait_share(times, Cluster(students, n, step)) for n in range(1, needed + 1)]
    assert [share <= MOST_WAIT for share in shares] == [False] * (needed - 1) + [True]


def test_no_number_is_enough_where_a_teacher_takes_longer_than_the_work_ahead():
    """Two batches ahead hide at most two steps."""
    assert teachers_needed([2.5], 4, 1.0, depth=2) is None
    assert teachers_needed([2.5], 1, 1.0, depth=3) == 3
