"""Unlabelled tiles with pseudo-labels: labelled before the step needs them, rejected tiles replaced, batches full."""

import logging
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import Tensor

from mkd.distributed.world import World
from mkd.labels import IGNORE
from mkd.semi.entropy import PseudoLabels
from mkd.teacher.api import Teacher, TeachersGone
from mkd.train.batches import FILTERED, Candidates
from mkd.train.pseudo.audit_log import AuditLog
from mkd.train.pseudo.exchange import PseudoBatch, PseudoTile, TileSlot, exchange_tiles, stack_tiles
from mkd.train.pseudo.monitor import PseudoLabelMonitor

log = logging.getLogger(__name__)

LIMIT = 4  # candidate batches that one step may use up
WARN_EVERY = 100  # steps between two log lines about batches that could not be filled
NO_TEACHER = 2  # stands for the flags (0 rejected, 1 accepted) of a rank without a teacher

Stream = Generator[Candidates, None, None]


class PseudoFeed:
    """Full batches of accepted tiles, in the sampler's order, whatever the number of ranks.

    Candidate batches are submitted ``teacher.depth`` ahead and collected in order: each rank its part, then all learn
    what was accepted. That waits in one global pool (first in, first out); a step takes the first R * U tiles of it
    (R ranks), rank r the r-th U of these, fetched from where they lie. When `LIMIT` batches do not fill it, rejected
    tiles stand in with no label at all, which is counted and logged.

    The tiles trained on and those rejected, in order, are a prefix of the sampler's order but for the pool. The state
    is that of the last whole step: the next candidate and the pool, which is always part of the candidate before it.
    Another number of ranks can go on from it.

    Args:
        candidates: ``candidates(n)`` yields this rank's part of the candidate batches from the n-th on, without end.
        size: U, tiles a step of this rank, and of each candidate batch.
        teacher: labels them, but for candidates that have labels already. With several ranks its tile filter
            gathers scores by ``world.gather`` once each batch, where a rank whose teacher is gone takes part for it.
        monitor: sees all answers.
        world: the ranks that share a batch; all call this, and `state_dict`, together.
        audit_log: records each tile's fate; None keeps none.
    """

    def __init__(
        self,
        candidates: Callable[[int], Stream],
        size: int,
        teacher: Teacher,
        monitor: PseudoLabelMonitor,
        world: World,
        audit_log: AuditLog | None = None,
    ) -> None:
        """Read nothing yet."""
        self._candidates, self.size, self.teacher = candidates, size, teacher
        self.monitor, self.world, self.audit_log = monitor, world, audit_log
        self.step, self.position, self.short = 0, 0, 0
        self._pool: list[TileSlot] = []
        self._labels: Tensor | None = None  # of this rank's part of the candidate batch that the pool is from
        self._stream: Stream | None = None
        self._in_flight: deque[tuple[int, Candidates]] = deque()
        self._next, self._next_warning = 0, 0
        self._pixel_bytes = 3  # of a weak view
        self._broken = False  # batches were collected whose tiles are not in the state

    def __call__(self, progress: float) -> PseudoBatch:
        """Return the batch of the next step, and leave ``teacher.depth`` candidate batches in flight.

        Args:
            progress: share of the training done, in [0,1].

        Raises:
            TeachersGone: a rank's teacher is gone; on all ranks. `state_dict` is then that of the last whole step, and
                only `load_state_dict` goes on from it.
        """
        assert not self._broken, "a step failed: load_state_dict first, or what it collected is lost"
        if self._stream is None:
            self._open(0)
        # Collect accepted tiles of all ranks; teachers that are gone leave the state of the step before.
        total = self.size * self.world.ranks
        scores, counts = self.teacher.tile_limit.state_dict(), self.monitor.snapshot()
        try:
            pool, rejected, position, labels = self._fill(total, progress)
        except TeachersGone:  # forget what was counted in this step: its batches will be labelled again
            self.teacher.tile_limit.load_state_dict(scores)
            self.monitor.restore(counts)
            self.close()
            self._broken = True
            raise
        # The global batch: accepted tiles, then stand-ins without a label; each goes to the rank that trains on it.
        trained, rest = pool[:total], pool[total:]
        missing = total - len(trained)
        stand_ins = rejected[len(rejected) - missing :]
        tiles = exchange_tiles([*trained, *stand_ins], self.world, labels.shape[1:], self._pixel_bytes)
        # Teachers label the next batches while this step trains.
        self._submit(self.teacher.depth, progress)
        # The state changes only now: a teacher that fails before leaves that of the step before.
        self.step, self.position, self._pool, self._labels = self.step + 1, position, rest, labels
        self._count_short(missing)
        if self.audit_log is not None:
            mine = min(self.size, max(0, len(trained) - self.world.rank * self.size))
            dropped = [slot.tile.pair for slot in rejected if slot.tile is not None]
            self.audit_log.add(self.step, [t.pair for t in tiles[:mine]], dropped)
        return stack_tiles(tiles)

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
        """Start reading candidate batches at the ``first``; the audit log forgets what comes after the last step."""
        self._stream, self._next = self._candidates(first), first
        if self.audit_log is not None:
            self.audit_log.begin(self.step, self.world)

    def _read(self) -> Candidates:
        """Return the next candidate batch; waits for this rank's decoding processes."""
        assert self._stream is not None
        self._next += 1
        return next(self._stream)

    def _submit(self, depth: int, progress: float) -> None:
        """Send candidate batches to the teacher until ``depth`` are in flight; waits for decoding, for no teacher."""
        while len(self._in_flight) < depth:
            ticket, batch = self._next, self._read()
            self._pixel_bytes = batch.weak.shape[1] * batch.weak.element_size()
            if batch.labels is None:
                self.teacher.submit(ticket, batch.weak, progress)
            self._in_flight.append((ticket, batch))

    def _collect(self) -> tuple[list[TileSlot], list[TileSlot], Tensor]:
        """Take the answer to the oldest batch in flight; waits for this rank's teacher, then for all ranks.

        Returns:
            Accepted and rejected tiles of all ranks, and the labels (U,S,S) of this one's.
        """
        ticket, batch = self._in_flight[0]
        answer, flags = _labels_and_flags(self.teacher, ticket, batch, self.world)
        self._in_flight.popleft()
        # A pixel that a filter dropped still is a pixel of the tile, which L_cons may be the mean over.
        dropped = (answer.labels == IGNORE) & batch.inside
        labels = answer.labels.masked_fill(~batch.inside, IGNORE).masked_fill(dropped, FILTERED)
        self.monitor.add(labels, batch.inside, answer.score, answer.accepted)
        passed, failed = list[TileSlot](), list[TileSlot]()
        for slot, accepted in enumerate(flags):
            (passed if accepted else failed).append(self._tile_slot(batch, labels, slot))
        return passed, failed, labels

    def _tile_slot(self, batch: Candidates, labels: Tensor, slot: int) -> TileSlot:
        """Return the tile of a slot, given this rank's part of the candidate batch and its labels."""
        rank, row = divmod(slot, self.size)
        if rank != self.world.rank:
            return TileSlot(slot, None)
        return TileSlot(slot, PseudoTile(batch.ids[row], batch.weak[row], labels[row], batch.generators[row]))

    def _count_short(self, missing: int) -> None:
        """Count tiles that stood in without a label, and warn of them now and then."""
        self.short += missing
        if missing > 0 and self.step >= self._next_warning:
            self._next_warning = self.step + WARN_EVERY
            total = self.size * self.world.ranks
            log.warning(
                f"step {self.step}: {LIMIT} candidate batches left {total - missing} of {total} tiles after "
                f"the tile filter; rejected tiles without a label fill the batch ({self.short} of them so far)"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold to go on exactly; all ranks call this together.

        The views of the pool's tiles are made again by their generators.
        """
        rows, labels = [slot.slot for slot in self._pool], torch.empty(0, dtype=torch.uint8)
        if rows:
            assert self._labels is not None
            labels = self.world.gather(self._labels)[rows]  # waits for all ranks
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
        self._broken = False
        self.step, self.position, self.short = (int(state[k]) for k in ("step", "position", "short"))
        rows, self._next_warning = state["rows"], 0
        # The pool's tiles are part of the candidate batch before ``position``: read that one again.
        self._open(self.position - bool(rows))
        self._pool = []
        # Their labels come from the checkpoint, each rank its part.
        if rows:
            batch, given = self._read(), state["labels"]
            whole = torch.full((self.size * self.world.ranks, *given.shape[1:]), IGNORE, dtype=torch.uint8)
            whole[rows] = given.cpu()
            self._labels = whole.chunk(self.world.ranks)[self.world.rank].to(batch.weak.device)
            self._pool = [self._tile_slot(batch, self._labels, slot) for slot in rows]

    def close(self) -> None:
        """End the decoding processes, and drop the batches in flight."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None
        self._in_flight.clear()


def _labels_and_flags(
    teacher: Teacher, ticket: int, batch: Candidates, world: World
) -> tuple[PseudoLabels, list[int]]:
    """Return this rank's answer, and which tiles of all ranks were accepted (1) or not (0)."""
    size = len(batch.ids)
    try:
        answer = teacher.collect(ticket) if batch.labels is None else _stored_labels(batch.labels)
    except TeachersGone:
        # The other ranks wait in two gathers, of scores (in their tile filter) and of flags: take part in both, so
        # that they learn of it instead of hanging. NaN scores are remembered by no tile filter.
        scores = torch.full((size,), torch.nan, device=world.device)
        world.gather(scores)
        world.gather(torch.full_like(scores, NO_TEACHER, dtype=torch.uint8))
        raise
    # Every rank waits here for the slowest teacher; then all know the same accepted tiles.
    flags: list[int] = world.gather(answer.accepted.to(torch.uint8)).tolist()
    if NO_TEACHER in flags:
        raise TeachersGone(f"rank {flags.index(NO_TEACHER) // size} has no teacher; its message says more")
    return answer, flags


def _stored_labels(labels: Tensor) -> PseudoLabels:
    """Return labels that were filtered when they were stored; their entropy was not read."""
    count = len(labels)
    return PseudoLabels(labels, torch.full((count,), torch.nan), torch.ones(count, dtype=torch.bool), 0)
