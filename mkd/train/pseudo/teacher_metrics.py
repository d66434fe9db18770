"""What teachers in other processes cost between two rows of the journal, over all ranks."""

import torch

from mkd.distributed.world import World
from mkd.teacher.api import TeacherStats

COUNTS = ("retries", "stale", "local")


def service_figures(
    before: TeacherStats, now: TeacherStats, seconds: float, world: World
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return numbers by name, and groups of counts by age; nothing when no other process was asked since the start.

    ::

        wait_teacher = max over ranks of  seconds waited / seconds,   age = mean over answered requests of all ranks

    The longest wait, because ranks train in lock-step: while one waits for its teacher, the others wait for it.

    Args:
        before: this rank's statistics at the row before.
        now: its statistics now.
        seconds: between the two.
        world: all ranks call this together.
    """
    # This rank's counts since the last row.
    ages, steps = now.ages - before.ages, now.age_steps - before.age_steps
    waited = min(1.0, (now.wait_s - before.wait_s) / max(1e-9, seconds))
    counts = [getattr(now, name) - getattr(before, name) for name in COUNTS]
    width = 1 + max([*ages, *steps], default=0)
    mine = torch.tensor([[now.tiles + now.local, width, waited, *counts]], dtype=torch.float64)
    ranks = world.gather(mine)  # waits for all ranks
    if ranks[:, 0].sum() == 0:
        return {}, {}
    # Histograms of age, in versions and in steps, summed over the ranks.
    table = torch.zeros(2, int(ranks[:, 1].max()), dtype=torch.int64)
    for row, found in zip(table, (ages, steps), strict=True):
        for age, n in found.items():
            row[age] = n
    of_age, of_steps = (
        {age: n for age, n in enumerate(row) if n} for row in world.all_reduce_sum(table).tolist()
    )
    mean = sum(age * n for age, n in of_age.items()) / max(1, sum(of_age.values()))
    sums = ranks[:, 3:].sum(dim=0).tolist()
    return {"wait_teacher": float(ranks[:, 2].max()), "age": mean}, {
        "teacher": {name: int(n) for name, n in zip(COUNTS, sums, strict=True)},
        "ages": {str(age): n for age, n in of_age.items()},
        "age_steps": {str(age): n for age, n in of_steps.items()},
    }
