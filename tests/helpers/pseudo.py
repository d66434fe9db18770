"""Teachers that answer by a script, candidate batches whose pixels name their tile, and the parts of a semi step."""

from collections import Counter

import numpy as np
import torch

from mkd.semi.entropy import PseudoLabels
from mkd.teacher.api import Tally, TeachersGone
from mkd.train.health import Health
from mkd.train.pseudo_feed import PseudoFeed
from mkd.train.semi_step import SemiStep
from mkd.train.supervised_step import Ohem
from mkd.train.views import Candidates
from tests.helpers.shards import CLASSES

SIDE = 3
TILES = 7  # an epoch of `numbered`


def numbered(size):
    """Give `candidates(first)`: tile n of the stream has n in its pixels, is (epoch, sample) and inside at one edge."""

    def candidates(first):
        batch = first
        while True:
            ids = [divmod(batch * size + row, TILES) for row in range(size)]
            weak = torch.zeros(size, 3, SIDE, SIDE, dtype=torch.uint8)
            for row, n in enumerate(range(batch * size, (batch + 1) * size)):
                weak[row, 0], weak[row, 1] = n % 256, n // 256
            inside = torch.ones(size, SIDE, SIDE, dtype=torch.bool)
            inside[:, 0] = False
            yield Candidates(ids, weak, inside, [np.random.default_rng(pair) for pair in ids])
            batch += 1

    return candidates


def numbers(weak):
    """Read the tiles' numbers back from `numbered` pixels."""
    return [int(w[0, 0, 0]) + 256 * int(w[1, 0, 0]) for w in weak]


class Scripted:
    """Accepts tile n of `numbered` when pattern[n % len] says so, and labels it n % 3; remembers the protocol.

    It is gone when ticket `gone` is collected.
    """

    def __init__(self, pattern, depth=0, gone=None):
        self.pattern, self.depth, self.gone = pattern, depth, gone
        self.tally, self.model = Tally(ages=Counter()), None
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
        labels = torch.stack([torch.full((SIDE, SIDE), n % 3, dtype=torch.uint8) for n in tiles])
        labels[~accepted] = 255
        return PseudoLabels(labels, torch.tensor([n % 5 / 10 for n in tiles]), accepted, 0)

    def follow(self, student):
        self.followed += 1

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        self.flight.clear()

    def close(self):
        self.flight.clear()


def health_of(teacher, say=print, histogram=(1, 1, 1), good=None):
    """Watch a teacher of the tiny data sets' classes."""
    return Health(CLASSES, histogram, say, teacher.tally, good)


def semi_step_of(model, teacher, feed, result=None, weight=1.0):
    """Make a semi-supervised step that reads its unlabelled tiles from a feed."""
    pseudo = PseudoFeed(feed.candidates, feed.batch, teacher, health_of(teacher), print)
    return SemiStep(model, pseudo, result or model, Ohem(0.7, 0.1), weight)
