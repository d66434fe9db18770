"""Unlabelled tiles with pseudo-labels: asked for ahead of the step, rejected tiles replaced, batches always full."""

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mkd.semi.entropy import IGNORE, PseudoLabels
from mkd.teacher.api import Teacher
from mkd.train.health import Health
from mkd.train.ledger import Ledger
from mkd.train.views import Candidates

LIMIT = 4  # candidate batches that one step may use up
SILENCE = 100  # steps between two lines about batches that could not be filled

Stream = Generator[Candidates, None, None]


@dataclass(frozen=True)
class PseudoBatch:
    """What a step trains on.

    Attributes:
        weak: weak views, uint8 (U,3,S,S).
        labels: uint8 (U,S,S), class ids; 255 where a filter dropped the pixel or it lies outside the tile.
        draws: one generator a tile; its strong view goes on from here.
    """

    weak: Tensor
    labels: Tensor
    draws: list[np.random.Generator]


@dataclass(frozen=True)
class _Tile:
    """A labelled candidate; ``row`` is its place in its batch."""

    pair: tuple[int, int]
    row: int
    weak: Tensor
    labels: Tensor
    draws: np.random.Generator


class PseudoFeed:
    """Full batches of accepted tiles, in the order of the plan.

    Candidate batches are submitted ``teacher.depth`` ahead and collected in order. What the tile filter accepts waits
    in a pool (first in, first out); a step takes the first U tiles of it. When `LIMIT` batches do not fill it, rejected
    tiles stand in with no label at all, which is counted and said.

    The tiles trained on and those rejected, in order, are a prefix of the plan but for the pool. The state is that
    of the last whole step: the next candidate and the pool, which is always part of the candidate before it.

    Args:
        candidates: ``candidates(n)`` yields this rank's candidate batches from the n-th on, without end.
        size: U, tiles a step of this rank.
        teacher: labels them, but for candidates that have labels already.
        health: sees all answers.
        say: prints a line beside the progress.
        ledger: records each tile's fate; None keeps none.
    """

    def __init__(
        self,
        candidates: Callable[[int], Stream],
        size: int,
        teacher: Teacher,
        health: Health,
        say: Callable[[str], None],
        ledger: Ledger | None = None,
    ) -> None:
        """Read nothing yet."""
        self._candidates, self.size, self.teacher = candidates, size, teacher
        self.health, self.say, self.ledger = health, say, ledger
        self.step, self.position, self.short = 0, 0, 0
        self._pool: list[_Tile] = []
        self._stream: Stream | None = None
        self._flight: deque[tuple[int, Candidates]] = deque()
        self._next, self._silent_until = 0, 0

    def __call__(self, progress: float) -> PseudoBatch:
        """Return the batch of the next step, and leave ``teacher.depth`` candidate batches in flight.

        Args:
            progress: share of the training done, in [0,1].
        """
        if self._stream is None:
            self._open(0)
        pool, rejected, position = list(self._pool), list[_Tile](), self.position
        for _ in range(LIMIT):
            if len(pool) >= self.size:
                break
            self._submit(max(1, self.teacher.depth), progress)
            passed, failed = self._collect()
            pool, rejected, position = pool + passed, rejected + failed, position + 1
        trained, rest = pool[: self.size], pool[self.size :]
        missing = self.size - len(trained)
        batch = _stacked(trained, rejected[len(rejected) - missing :])
        self._submit(self.teacher.depth, progress)
        # Only now: a teacher that fails leaves the state of the step before.
        self.step, self.position, self._pool = self.step + 1, position, rest
        self._count_short(missing)
        if self.ledger is not None:
            self.ledger.add(self.step, [t.pair for t in trained], [t.pair for t in rejected])
        return batch

    def _open(self, first: int) -> None:
        self._stream, self._next = self._candidates(first), first
        if self.ledger is not None:
            self.ledger.begin(self.step)

    def _read(self) -> Candidates:
        assert self._stream is not None
        self._next += 1
        return next(self._stream)

    def _submit(self, depth: int, progress: float) -> None:
        """Put candidate batches in flight until there are ``depth``."""
        while len(self._flight) < depth:
            ticket, batch = self._next, self._read()
            if batch.labels is None:
                self.teacher.submit(ticket, batch.weak, progress)
            self._flight.append((ticket, batch))

    def _collect(self) -> tuple[list[_Tile], list[_Tile]]:
        """Take the answer of the oldest batch in flight; return its accepted and its rejected tiles."""
        ticket, batch = self._flight[0]
        answer = self.teacher.collect(ticket) if batch.labels is None else _stored(batch.labels)
        self._flight.popleft()
        labels = answer.labels.masked_fill(~batch.inside, IGNORE)
        self.health.add(labels, batch.inside, answer.score, answer.accepted)
        passed, failed = list[_Tile](), list[_Tile]()
        for row, accepted in enumerate(answer.accepted.tolist()):
            (passed if accepted else failed).append(_tile(batch, row, labels[row]))
        return passed, failed

    def _count_short(self, missing: int) -> None:
        self.short += missing
        if missing > 0 and self.step >= self._silent_until:
            self._silent_until = self.step + SILENCE
            self.say(
                f"step {self.step}: {LIMIT} candidate batches left {self.size - missing} of {self.size} tiles after "
                f"the tile filter; rejected tiles without a label fill the batch ({self.short} of them so far)"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold to go on exactly; views are made again from the plan."""
        labels = [t.labels for t in self._pool]
        return {
            "step": self.step,
            "position": self.position,
            "short": self.short,
            "rows": [t.row for t in self._pool],
            "labels": torch.stack(labels) if labels else torch.empty(0, dtype=torch.uint8),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; the pool's views are read again. The teacher's state is to be loaded before."""
        self.close()
        self.step, self.position, self.short = (int(state[k]) for k in ("step", "position", "short"))
        rows, self._silent_until = state["rows"], 0
        self._open(self.position - bool(rows))
        self._pool = []
        if rows:
            batch = self._read()
            labels = state["labels"].to(batch.weak.device)
            self._pool = [_tile(batch, row, labels[n]) for n, row in enumerate(rows)]

    def close(self) -> None:
        """End the decoding processes, and forget what is in flight."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None
        self._flight.clear()


def _tile(batch: Candidates, row: int, labels: Tensor) -> _Tile:
    return _Tile(batch.ids[row], row, batch.weak[row], labels, batch.draws[row])


def _stored(labels: Tensor) -> PseudoLabels:
    """Return labels that were filtered when they were stored; their entropy was not read."""
    count = len(labels)
    return PseudoLabels(labels, torch.full((count,), torch.nan), torch.ones(count, dtype=torch.bool), 0)


def _stacked(trained: list[_Tile], stand_ins: list[_Tile]) -> PseudoBatch:
    tiles = [*trained, *stand_ins]
    labels = [t.labels for t in trained] + [torch.full_like(t.labels, IGNORE) for t in stand_ins]
    return PseudoBatch(torch.stack([t.weak for t in tiles]), torch.stack(labels), [t.draws for t in tiles])
