"""Unlabelled tiles with pseudo-labels: asked for ahead of the step, rejected tiles replaced, batches always full."""

from collections import deque
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import Tensor

from mkd.distributed.world import World
from mkd.labels import IGNORE
from mkd.semi.entropy import PseudoLabels
from mkd.teacher.api import Teacher, TeachersGone
from mkd.train.batches import Candidates
from mkd.train.pseudo.audit_log import AuditLog
from mkd.train.pseudo.exchange import PseudoBatch, PseudoTile, TileSlot, deal, stacked
from mkd.train.pseudo.monitor import PseudoLabelMonitor
from mkd.train.steps.supervised import ALONE

LIMIT = 4  # candidate batches that one step may use up
SILENCE = 100  # steps between two lines about batches that could not be filled
GONE = 2  # stands for the flags (0 rejected, 1 accepted) of a rank without a teacher

Stream = Generator[Candidates, None, None]


class PseudoFeed:
    """Full batches of accepted tiles, in the order of the plan, whatever the number of ranks.

    Candidate batches are submitted ``teacher.depth`` ahead and collected in order: each rank its part, then all learn
    what was accepted. That waits in one global pool (first in, first out); a step takes the first R * U tiles of it
    (R ranks), rank r the r-th U of these, fetched from where they lie. When `LIMIT` batches do not fill it, rejected
    tiles stand in with no label at all, which is counted and said.

    The tiles trained on and those rejected, in order, are a prefix of the plan but for the pool. The state is that
    of the last whole step: the next candidate and the pool, which is always part of the candidate before it. It can
    be gone on from with another number of ranks.

    Args:
        candidates: ``candidates(n)`` yields this rank's part of the candidate batches from the n-th on, without end.
        size: U, tiles a step of this rank, and of each candidate batch.
        teacher: labels them, but for candidates that have labels already. With several ranks its tile filter
            gathers scores by ``world.gather`` once each batch, where a rank whose teacher is gone takes part for it.
        health: sees all answers.
        say: prints a line beside the progress.
        ledger: records each tile's fate; None keeps none.
        world: the ranks that share a batch; all call this, and `state_dict`, together.
    """

    def __init__(
        self,
        candidates: Callable[[int], Stream],
        size: int,
        teacher: Teacher,
        health: PseudoLabelMonitor,
        say: Callable[[str], None],
        ledger: AuditLog | None = None,
        world: World = ALONE,
    ) -> None:
        """Read nothing yet."""
        self._candidates, self.size, self.teacher = candidates, size, teacher
        self.health, self.say, self.ledger, self.world = health, say, ledger, world
        self.step, self.position, self.short = 0, 0, 0
        self._pool: list[TileSlot] = []
        self._labels: Tensor | None = None  # of this rank's part of the candidate batch that the pool is from
        self._stream: Stream | None = None
        self._flight: deque[tuple[int, Candidates]] = deque()
        self._next, self._silent_until = 0, 0
        self._lost = False  # batches were collected whose tiles are not in the state

    def __call__(self, progress: float) -> PseudoBatch:
        """Return the batch of the next step, and leave ``teacher.depth`` candidate batches in flight.

        Args:
            progress: share of the training done, in [0,1].

        Raises:
            TeachersGone: a rank's teacher is gone; on all ranks. `state_dict` is then that of the last whole step, and
                only `load_state_dict` goes on from it.
        """
        assert not self._lost, "a step failed: load_state_dict first, or what it collected is lost"
        if self._stream is None:
            self._open(0)
        total = self.size * self.world.ranks
        scores, seen = self.teacher.tile_limit.state_dict(), self.health.seen()
        try:
            pool, rejected, position, labels = self._fill(total, progress)
        except TeachersGone:  # what some batches of this step taught is forgotten: they are asked for again
            self.teacher.tile_limit.load_state_dict(scores)
            self.health.forget(seen)
            self.close()
            self._lost = True
            raise
        trained, rest = pool[:total], pool[total:]
        missing = total - len(trained)
        stand_ins = rejected[len(rejected) - missing :]  # which have no label
        tiles = deal([*trained, *stand_ins], self.world, labels.shape[1:])
        self._submit(self.teacher.depth, progress)
        # Only now: a teacher that fails leaves the state of the step before.
        self.step, self.position, self._pool, self._labels = self.step + 1, position, rest, labels
        self._count_short(missing)
        if self.ledger is not None:
            mine = min(self.size, max(0, len(trained) - self.world.rank * self.size))
            dropped = [entry.tile.pair for entry in rejected if entry.tile is not None]
            self.ledger.add(self.step, [t.pair for t in tiles[:mine]], dropped)
        return stacked(tiles)

    def _fill(self, total: int, progress: float) -> tuple[list[TileSlot], list[TileSlot], int, Tensor]:
        """Collect until the pool, which has fewer now, holds ``total`` tiles, or `LIMIT` batches are used up.

        Returns:
            The pool then, the tiles rejected meanwhile, the number of the next candidate batch, and the labels (U,S,S)
            that this rank's part of the last one got.
        """
        pool, rejected, position = list(self._pool), list[TileSlot](), self.position
        while len(pool) < total and position < self.position + LIMIT:
            self._submit(max(1, self.teacher.depth), progress)
            passed, failed, labels = self._collect()
            pool, rejected, position = pool + passed, rejected + failed, position + 1
        return pool, rejected, position, labels

    def _open(self, first: int) -> None:
        self._stream, self._next = self._candidates(first), first
        if self.ledger is not None:
            self.ledger.begin(self.step, self.world)

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

    def _collect(self) -> tuple[list[TileSlot], list[TileSlot], Tensor]:
        """Take the answers to the oldest batch in flight.

        Returns:
            Accepted and rejected tiles of all ranks, and the labels (U,S,S) of this one's.
        """
        ticket, batch = self._flight[0]
        answer, flags = self._answer(ticket, batch)
        self._flight.popleft()
        labels = answer.labels.masked_fill(~batch.inside, IGNORE)
        self.health.add(labels, batch.inside, answer.score, answer.accepted)
        passed, failed = list[TileSlot](), list[TileSlot]()
        for slot, accepted in enumerate(flags):
            (passed if accepted else failed).append(self._entry(batch, labels, slot))
        return passed, failed, labels

    def _answer(self, ticket: int, batch: Candidates) -> tuple[PseudoLabels, list[int]]:
        """Return this rank's answer, and which tiles of all ranks were accepted (1) or not (0)."""
        try:
            answer = self.teacher.collect(ticket) if batch.labels is None else _stored(batch.labels)
        except TeachersGone:
            # The others wait for scores of this rank, which no tile filter remembers, and then for its flags.
            scores = torch.full((self.size,), torch.nan, device=self.world.device)
            self.world.gather(scores)
            self.world.gather(torch.full_like(scores, GONE, dtype=torch.uint8))
            raise
        flags: list[int] = self.world.gather(answer.accepted.to(torch.uint8)).tolist()
        if GONE in flags:
            raise TeachersGone(f"rank {flags.index(GONE) // self.size} has no teacher; its message says more")
        return answer, flags

    def _entry(self, batch: Candidates, labels: Tensor, slot: int) -> TileSlot:
        """Return the tile of a slot, given this rank's part of the candidate batch and its labels."""
        rank, row = divmod(slot, self.size)
        if rank != self.world.rank:
            return TileSlot(slot, None)
        return TileSlot(slot, PseudoTile(batch.ids[row], batch.weak[row], labels[row], batch.generators[row]))

    def _count_short(self, missing: int) -> None:
        self.short += missing
        if missing > 0 and self.step >= self._silent_until:
            self._silent_until = self.step + SILENCE
            total = self.size * self.world.ranks
            self.say(
                f"step {self.step}: {LIMIT} candidate batches left {total - missing} of {total} tiles after "
                f"the tile filter; rejected tiles without a label fill the batch ({self.short} of them so far)"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold to go on exactly; views are made again from the plan."""
        rows, labels = [entry.slot for entry in self._pool], torch.empty(0, dtype=torch.uint8)
        if rows:
            assert self._labels is not None
            labels = self.world.gather(self._labels)[rows]
        return {
            "step": self.step,
            "position": self.position,
            "short": self.short,
            "rows": rows,
            "labels": labels,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; the pool's views are read again. The teacher's state is to be loaded before."""
        self.close()
        self._lost = False
        self.step, self.position, self.short = (int(state[k]) for k in ("step", "position", "short"))
        rows, self._silent_until = state["rows"], 0
        self._open(self.position - bool(rows))
        self._pool = []
        if rows:
            batch, given = self._read(), state["labels"]
            whole = torch.full((self.size * self.world.ranks, *given.shape[1:]), IGNORE, dtype=torch.uint8)
            whole[rows] = given.cpu()
            self._labels = whole.chunk(self.world.ranks)[self.world.rank].to(batch.weak.device)
            self._pool = [self._entry(batch, self._labels, slot) for slot in rows]

    def close(self) -> None:
        """End the decoding processes, and forget what is in flight."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None
        self._flight.clear()


def _stored(labels: Tensor) -> PseudoLabels:
    """Return labels that were filtered when they were stored; their entropy was not read."""
    count = len(labels)
    return PseudoLabels(labels, torch.full((count,), torch.nan), torch.ones(count, dtype=torch.bool), 0)
