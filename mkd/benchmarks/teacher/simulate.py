"""How many teachers a cluster needs: students and teachers played through with recorded service times.

What is played: the ranks of one student job train in lock-step and work ``depth`` batches ahead, as
`mkd.train.pseudo.feed` does; each rank gives a batch to the endpoint that will have it done first as far as that rank
can tell, as `mkd.teacher.client.dispatcher` does; a teacher takes requests in the order in which they come.
No teacher dies, and none is so late that another one is asked too.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mkd.teacher.client.latency_estimate import LatencyEstimate

MOST_WAIT = 0.05  # share of the students' time
WARM_UP = 50  # steps before the clock: queues fill, rates become known


@dataclass(frozen=True)
class Cluster:
    """What is played through.

    Attributes:
        students: ranks, >= 1.
        teachers: >= 1.
        step_s: a training step without any wait, seconds.
        depth: batches that a student works ahead, >= 1.
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
        cluster: what is played through.
        steps: counted, after a warm-up.
        seed: of the draws.
    """
    begins = step_begins(times, cluster, WARM_UP + steps + 1, seed)
    return 1 - steps * cluster.step_s / (begins[-1] - begins[WARM_UP])


def step_begins(times: Sequence[float], cluster: Cluster, steps: int, seed: int) -> list[float]:
    """Return when each step begins to wait for its labels, in seconds; the first at 0.

    No queue of events is needed: whatever is asked in one step is asked before all that is asked in the next.
    """
    draws = iter(
        np.random.default_rng(seed).choice(np.asarray(times), cluster.students * (steps + cluster.depth))
    )
    free = [0.0] * cluster.teachers  # when each has done all that it was asked
    students = [_Student(cluster.teachers, rank) for rank in range(cluster.students)]

    def ask(student: _Student, now: float) -> None:
        teacher = student.choose(now)
        free[teacher] = max(free[teacher], now) + float(next(draws))
        student.give(teacher, now, free[teacher] + cluster.travel_s)

    for _ in range(cluster.depth):
        for student in students:
            ask(student, 0.0)
    begins = [0.0]
    for _ in range(steps - 1):
        ready = [max(begins[-1], student.next_answer()) for student in students]
        for n in sorted(range(len(students)), key=ready.__getitem__):
            ask(students[n], ready[n])
        begins.append(max(ready) + cluster.step_s)
    return begins


def teachers_needed(
    times: Sequence[float], students: int, step_s: float, depth: int = 2, travel_s: float = 0.0
) -> int | None:
    """Return the least number of teachers at which the students wait at most `MOST_WAIT`.

    None where twice as many as their throughput asks for are not enough, or more than can ever be busy: of one student
    at most ``depth`` batches are under way.
    """
    mean = float(np.mean(times))
    fewest = max(1, math.ceil((1 - MOST_WAIT) * students * mean / step_s))  # their throughput suffices
    for teachers in range(fewest, max(fewest, min(2 * fewest, students * depth)) + 1):
        if wait_share(times, Cluster(students, teachers, step_s, depth, travel_s)) <= MOST_WAIT:
            return teachers
    return None


class _Student:
    """One rank's view of the teachers: what it still expects of each, and the pace that it measured."""

    def __init__(self, teachers: int, rank: int) -> None:
        self._order = [(rank + n) % teachers for n in range(teachers)]  # the first of equals is taken
        self._expected, self._paces = (
            [0] * teachers,
            [LatencyEstimate() for _ in range(teachers)],
        )  # of batches
        self._under_way: list[tuple[float, int]] = []  # when an answer will come, and from whom
        self._answers: deque[float] = deque()

    def choose(self, now: float) -> int:
        """Return the teacher that will have one more batch done first."""
        for came, teacher in sorted(a for a in self._under_way if a[0] <= now):
            self._under_way.remove((came, teacher))
            self._expected[teacher] -= 1
            self._paces[teacher].answer(came, 1, True)
        best = min((p.seconds for p in self._paces if p.seconds is not None), default=1.0)

        def until(teacher: int) -> float:
            before = self._expected[teacher]
            return self._paces[teacher].expected(now, best, 1, before, min(before, 1))

        return min(self._order, key=until)

    def give(self, teacher: int, now: float, answer: float) -> None:
        """Ask; the answer will come at that time."""
        if not self._expected[teacher]:
            self._paces[teacher].begin(now)
        self._expected[teacher] += 1
        self._under_way.append((answer, teacher))
        self._answers.append(answer)

    def next_answer(self) -> float:
        """Return when the answer to the oldest request comes, which is taken."""
        return self._answers.popleft()
