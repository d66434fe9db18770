"""What tests of the monitor share: answers of a teacher, and rows reported of them."""

import torch

from mkd.teacher.api import TeacherStats
from mkd.train.pseudo.monitor import PseudoLabelMonitor
from tests.helpers.shards import CLASSES
from tests.helpers.training.runs import CPU


def monitor_with(histogram=(30, 50, 20), good=None, world=CPU):
    """Make a monitor of a teacher in this process."""
    return PseudoLabelMonitor(CLASSES, histogram, TeacherStats(), world, good)


def answer(*classes, size=100, inside=None):
    """Give one tile of `size` pixels, the first of them kept as these (class, pixels), the others dropped."""
    labels = torch.full((1, 1, size), 255, dtype=torch.uint8)
    kept = [c for c, n in classes for _ in range(n)]
    labels[0, 0, : len(kept)] = torch.tensor(kept, dtype=torch.uint8)
    where = torch.zeros(1, 1, size, dtype=torch.bool)
    where[..., : size if inside is None else inside] = True
    return labels, where, torch.tensor([0.5]), torch.tensor([bool(kept)])


def rows(monitor, *answers):
    """Report once for each answer, and check each; return the figures."""
    found = []
    for given_ in answers:
        monitor.add(*given_)
        found.append(monitor.report())
        monitor.check()
    return found


HEALTHY = answer((0, 20), (1, 40), (2, 10))
TAKEN = answer((0, 99))
EMPTY = answer()
