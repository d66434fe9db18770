"""Two student ranks, and two teachers killed at random moments: python tests/soak_teacher.py [KILLS] [SEED].

The ranks train with gloo on pseudo-labels of the services, each teacher is killed with -9 KILLS times (20), in turn
with the other, and started again on its port. At the end the tiles trained on, those rejected and those still in the
pool are the plan's, once each; both ranks have the same student and the same average.
"""

import random
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.helpers.processes.ranks import start_ranks
from tests.helpers.teacher.ranks_on_services import judge, train, write_tiles
from tests.helpers.teacher.services import TeacherProcess, free_port, processes, until

RANKS, MAX_AGE, DELAY = 2, 4, 0.02


def steps_of(folder, rank):
    """Return how far a rank has come."""
    text = (folder / f"step-{rank}").read_text() if (folder / f"step-{rank}").is_file() else ""
    return int(text or 0)


def train_and_kill(folder, kills, rng, show):
    """Start teachers and students, kill the teachers by turns, stop the students; return their ends."""
    teachers = [TeacherProcess(free_port(), n, DELAY, wait=False) for n in range(2)]
    results = [folder / f"{rank}.pt" for rank in range(RANKS)]
    with processes(*teachers):
        given = (str(folder), str(10**6), str(MAX_AGE), *(t.endpoint for t in teachers))
        students = start_ranks(f"{train.__module__}:train", RANKS, folder, *given)
        try:
            until(lambda: all(steps_of(folder, rank) > 2 for rank in range(RANKS)), 120)
            for n in range(kills * len(teachers)):
                time.sleep(rng.uniform(0, 1.5))
                turn = n % len(teachers)
                teachers[turn].kill()
                time.sleep(rng.uniform(0, 0.5))
                # The next one may be killed before this one is ready: then nobody is there for a while.
                teachers[turn] = TeacherProcess(teachers[turn].port, n, DELAY, wait=rng.random() < 0.7)
                show(
                    f"kill {n // len(teachers) + 1} of {kills} of teacher {turn}, at step {steps_of(folder, 0)}"
                )
            last = steps_of(folder, 0)
            until(lambda: steps_of(folder, 0) > last + 5, 120)
            (folder / "stop").touch()
            until(lambda: all(result.is_file() for result in results), 120)
        finally:
            for student in students:
                student.kill()
                student.join()
            for teacher in teachers:
                teacher.kill()
    return [torch.load(result, weights_only=True) for result in results]


def soak(kills, seed=0, show=print):
    """Return what is wrong after so many kills of each teacher, and what the students said."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tiles(folder)
        ends = train_and_kill(folder, kills, random.Random(seed), show)
        said = [(folder / f"{rank}.txt").read_text() for rank in range(RANKS)]
        return judge(folder, ends, MAX_AGE, show), said


if __name__ == "__main__":
    complaints, _ = soak(*([int(a) for a in sys.argv[1:]] or [20]))
    sys.exit("\n".join(complaints) if complaints else 0)
