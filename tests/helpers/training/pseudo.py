"""Teachers that answer by a script, candidate batches whose pixels name their tile, and the parts of a semi step."""

from collections import Counter

import numpy as np
import torch

from mkd.semi.entropy import PseudoLabels, TileLimit
from mkd.teacher.api import TeachersGone, TeacherStats
from mkd.train.batches import Candidates
from mkd.train.pseudo.feed import PseudoFeed
from mkd.train.pseudo.monitor import PseudoLabelMonitor
from mkd.train.steps.semi import SemiStep
from mkd.train.steps.supervised import SupervisedLoss
from tests.helpers.shards import CLASSES
from tests.helpers.training.runs import CPU

SIDE = 3
TILES = 7  # an epoch of `numbered`


def numbered(size, world=CPU, stored=False):
    """Give `candidates(first)`: tile n of the stream has n in its pixels, is (epoch, sample) and inside at one edge.

    Each rank gets `size` tiles of a batch; with `stored` they come with the label n % 3.
    """

    def candidates(first):
        part = first * world.ranks + world.rank
        while True:
            tiles = range(part * size, (part + 1) * size)
            ids = [divmod(n, TILES) for n in tiles]
            weak = torch.zeros(size, 3, SIDE, SIDE, dtype=torch.uint8)
            for row, n in enumerate(tiles):
                weak[row, 0], weak[row, 1] = n % 256, n // 256
                noise = np.random.default_rng(n).integers(0, 256, (SIDE, SIDE), np.uint8)
                weak[row, 2] = torch.from_numpy(noise)
            inside = torch.ones(size, SIDE, SIDE, dtype=torch.bool)
            inside[:, 0] = False
            labels = numbered_labels(tiles) if stored else None
            yield Candidates(ids, weak, inside, [np.random.default_rng(pair) for pair in ids], labels)
            part += world.ranks

    return candidates


def numbered_labels(tiles):
    """Label tile n with n % 3 everywhere."""
    return torch.stack([torch.full((SIDE, SIDE), n % 3, dtype=torch.uint8) for n in tiles])


def numbers(weak):
    """Read the tiles' numbers back from `numbered` pixels."""
    return [int(w[0, 0, 0]) + 256 * int(w[1, 0, 0]) for w in weak]


class Scripted:
    """Accepts tile n of `numbered` when pattern[n % len] says so, and labels it n % 3; remembers the protocol.

    It is gone when ticket `gone` is collected. Its tile filter sees what `gather` makes of the scores.
    """

    def __init__(self, pattern, depth=0, gone=None, gather=lambda score: score):
        self.pattern, self.depth, self.gone, self.gather = pattern, depth, gone, gather
        self.tile_limit = TileLimit(window=50)
        self.stats, self.model = TeacherStats(ages=Counter()), None
        self.submitted, self.collected, self.flight = [], [], {}
        self.most, self.followed = 0, 0

    def submit(self, ticket, images, progress):
        assert ticket not in self.flight
        self.flight[ticket] = numbers(images)
        self.submitted.append((ticket, progress))
        self.most = max(self.most, len(self.flight))

    def collect(self, ticket):
        if ticket == self.gone:
            raise TeachersGone("no teacher answers")
        tiles = self.flight.pop(ticket)
        self.collected.append(ticket)
        accepted = torch.tensor([self.pattern[n % len(self.pattern)] for n in tiles])
        labels = numbered_labels(tiles)
        labels[~accepted] = 255
        score = torch.tensor([n % 5 / 10 for n in tiles])
        self.tile_limit.observe(self.gather(score))
        return PseudoLabels(labels, score, accepted, 0)

    def follow(self, student):
        self.followed += 1

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        self.flight.clear()

    def close(self):
        self.flight.clear()


def monitor_of(teacher, histogram=(1, 1, 1), good=None, world=CPU):
    """Watch a teacher of the tiny data sets' classes."""
    return PseudoLabelMonitor(CLASSES, histogram, teacher.stats, world, good)


def semi_step_of(model, teacher, feed, result=None, weight=1.0):
    """Make a semi-supervised step that reads its unlabelled tiles from a feed."""
    world = feed.world
    monitor, size = monitor_of(teacher, world=world), feed.batch // world.ranks
    pseudo = PseudoFeed(feed.candidates, size, teacher, monitor, world)
    return SemiStep(model, pseudo, result or model, SupervisedLoss(0.7, 0.1), weight, world=world)
