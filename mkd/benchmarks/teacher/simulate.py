"""How many teachers a cluster needs: students and teachers simulated with recorded service times.

The ranks of one student job train in lock-step and submit ``depth`` batches ahead, as `mkd.train.pseudo.feed` does;
each rank sends a batch to the endpoint that it expects to answer first, as `mkd.teacher.client.dispatcher` does; a
teacher takes requests in the order in which they come. No teacher fails, and none is so late that a batch is sent to
another one as well.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mkd.teacher.client.latency_estimate import LatencyEstimate

MOST_WAIT = 0.05  # largest share of the students' time
WARM_UP = 50  # steps that do not count: queues fill, latencies become known


@dataclass(frozen=True)
class Cluster:
    """What is simulated.

    Attributes:
        students: ranks, >= 1.
        teachers: >= 1.
        step_s: a training step without any wait, seconds.
        depth: batches that a student submits ahead, >= 1.
        travel_s: from a finished batch to its labels at the student, seconds.
    """

    students: int
    teachers: int
    step_s: float
    depth: int = 2
    travel_s: float = 0.0


def wait_share(times: Sequence[float], cluster: Cluster, steps: int = 300, seed: int = 0) -> float:
    """Return the share of the students' time, in [0,1), that they wait for labels or for a rank that waits for them.

    Args:
        times: recorded seconds of one batch at a teacher; drawn from at random, with replacement.
        cluster: what is simulated.
        steps: counted, after a warm-up.
        seed: of the draws.
    """
    begins = step_begins(times, cluster, WARM_UP + steps + 1, seed)
    return 1 - steps * cluster.step_s / (begins[-1] - begins[WARM_UP])


def step_begins(times: Sequence[float], cluster: Cluster, steps: int, seed: int) -> list[float]:
    """Return when each step begins to wait for its labels, in seconds; the first at 0.

    No queue of events is needed: all requests of one step are sent before any of the next.
    """
    draws = iter(
        np.random.default_rng(seed).choice(np.asarray(times), cluster.students * (steps + cluster.depth))
    )
    free = [0.0] * cluster.teachers  # when each has answered all its requests
    students = [_Student(cluster.teachers, rank) for rank in range(cluster.students)]

    def submit(student: _Student, now: float) -> None:
        teacher = student.choose_teacher(now)
        free[teacher] = max(free[teacher], now) + float(next(draws))
        student.assign(teacher, now, free[teacher] + cluster.travel_s)

    for _ in range(cluster.depth):
        for student in students:
            submit(student, 0.0)
    begins = [0.0]
    for _ in range(steps - 1):
        ready = [max(begins[-1], student.pop_answer_time()) for student in students]
        for n in sorted(range(len(students)), key=ready.__getitem__):
            submit(students[n], ready[n])
        begins.append(max(ready) + cluster.step_s)
    return begins


def teachers_needed(
    times: Sequence[float], students: int, step_s: float, depth: int = 2, travel_s: float = 0.0
) -> int | None:
    """Return the least number of teachers at which the students wait at most `MOST_WAIT`.

    None where neither twice as many as the throughput requires are enough, nor as many as can be busy at once: each
    student has at most ``depth`` batches under way.
    """
    mean = float(np.mean(times))
    fewest = max(1, math.ceil((1 - MOST_WAIT) * students * mean / step_s))  # their throughput suffices
    for teachers in range(fewest, max(fewest, min(2 * fewest, students * depth)) + 1):
        if wait_share(times, Cluster(students, teachers, step_s, depth, travel_s)) <= MOST_WAIT:
            return teachers
    return None


class _Student:
    """One rank's view of the teachers: open requests and measured latency of each."""

    def __init__(self, teachers: int, rank: int) -> None:
        self._order = [(rank + n) % teachers for n in range(teachers)]  # ranks break ties differently
        self._open = [0] * teachers  # batches submitted and not answered
        self._latencies = [LatencyEstimate() for _ in range(teachers)]
        self._under_way: list[tuple[float, int]] = []  # time of the answer, teacher
        self._answer_times: deque[float] = deque()  # in the order of submission

    def choose_teacher(self, now: float) -> int:
        """Return the teacher that is expected to answer one more batch first."""
        for came, teacher in sorted(a for a in self._under_way if a[0] <= now):
            self._under_way.remove((came, teacher))
            self._open[teacher] -= 1
            self._latencies[teacher].answer(came, 1, True)
        best = min((e.seconds for e in self._latencies if e.seconds is not None), default=1.0)

        def expected_s(teacher: int) -> float:
            before = self._open[teacher]
            return self._latencies[teacher].expected(now, best, 1, before, min(before, 1))

        return min(self._order, key=expected_s)

    def assign(self, teacher: int, now: float, answer_time: float) -> None:
        """Record a request to a teacher and the time of its answer."""
        if not self._open[teacher]:
            self._latencies[teacher].begin(now)
        self._open[teacher] += 1
        self._under_way.append((answer_time, teacher))
        self._answer_times.append(answer_time)

    def pop_answer_time(self) -> float:
        """Remove the oldest request and return the time of its answer."""
        return self._answer_times.popleft()
