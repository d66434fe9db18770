"""The pseudo-labels' monitor: kept pixels, entropy, classes, age and waiting of the teacher; and when they collapse."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mkd.distributed.world import World
from mkd.teacher.api import TeacherStats
from mkd.train.pseudo.teacher_metrics import service_figures

log = logging.getLogger(__name__)

DOMINANT = 0.95  # share of the kept pixels with which one class has taken over,
ORDINARY = 0.8  # unless the labelled set gives it this share itself
FLOOR = 0.001  # share of the pixels kept below which the student learns nothing from the teacher
ROWS = 5  # rows of the journal in a row that make a collapse
FEW = 0.1  # share of the pixels kept below which a run is told once that it gains little
ROLLBACKS = 3  # after that many a run stops
_INSIDE = 256  # in counts of pixels: comes after the labels


class Collapsed(Exception):
    """The pseudo-labels have collapsed and the run is to go back to its last good checkpoint."""


@dataclass(frozen=True)
class Figures:
    """What a row of the journal says about the teacher: numbers by name, and groups of numbers by class or age."""

    values: dict[str, float]
    groups: dict[str, dict[str, float]]


@dataclass
class _Sums:
    """Counts since the last row, and the time and the teacher's statistics at that row.

    Attributes:
        pixels: int64 (257,), on the device of the labels: pixels of each label, and those inside their tile.
        scores: float64 (2,), there too: sum of the tiles' scores, and the number of accepted ones.
        stats: of the teacher.
        since: time, seconds.
        tiles: candidates.
    """

    pixels: Tensor
    scores: Tensor
    stats: TeacherStats
    since: float
    tiles: int = 0


class PseudoLabelMonitor:
    """Counts what the filters keep of the pseudo-labels, reports it by row, and notices a collapse.

    ::

        kept share of class c   k_c = pixels kept as c / pixels inside the candidate tiles,   kept = sum_c k_c
        class histogram         p_c = k_c / kept
        class shift             1/2 sum_c |p_c - q_c|,   q = class histogram of the labelled set; in [0,1]
        a bad row               p_c > 0.95 for a class with q_c < 0.8,   or   kept < 0.001

    A collapse is `ROWS` bad rows one after another. It is logged once; with ``good`` the run goes back.

    Counts are summed over the ranks, so that all report and decide alike; of the shares of time that ranks waited for
    their teachers the largest is reported.

    Args:
        classes: their names.
        histogram: labelled pixels of each class.
        stats: the teacher's; of one in another process, waiting and ages are reported too.
        world: the ranks; all call `report` and `check` together.
        good: whether there is a good checkpoint to go back to; None never goes back (semi.on_collapse=warn).
        control: nothing is learned from the pseudo-labels on purpose: then nothing is a collapse.
    """

    def __init__(
        self,
        classes: Sequence[str],
        histogram: Sequence[int],
        stats: TeacherStats,
        world: World,
        good: Callable[[], bool] | None = None,
        *,
        control: bool = False,
    ) -> None:
        """Start with nothing seen."""
        self.control, self._few_rows = control, 0
        self.classes, self.stats, self.world, self._good = tuple(classes), stats, world, good
        total = max(1, sum(histogram))
        self.labelled = [n / total for n in histogram]
        self.bad_rows, self.rollbacks = 0, 0
        self._reason, self._too_few = "", False
        self._sums = self._new_sums()

    @property
    def is_healthy(self) -> bool:
        """Whether the present state is one to go back to: no bad row since the last good one, and rollback is on."""
        return self._good is not None and self.bad_rows == 0

    @property
    def weight_factor(self) -> float:
        """Factor of w_u: halved by each rollback, because the same steps would end in the same collapse."""
        return float(0.5**self.rollbacks)

    def add(self, labels: Tensor, inside: Tensor, score: Tensor, accepted: Tensor) -> None:
        """Count one answer of the teacher.

        Args:
            labels: uint8 (B,H,W), class ids; 255 = dropped or outside the tile.
            inside: bool (B,H,W), pixels inside the tile.
            score: float (B,), mean normalised entropy of each tile, in [0,1].
            accepted: bool (B,), what passed the tile filter.
        """
        s = self._sums
        # All stays on the device until a row is due: reading it here would make each step wait. (`bincount` waits.)
        ids, one = labels.flatten().long(), torch.ones((), dtype=torch.int64, device=labels.device)
        pixels = torch.zeros(_INSIDE + 1, dtype=torch.int64, device=labels.device)
        pixels.scatter_add_(0, ids, one.expand_as(ids))
        pixels[_INSIDE] = inside.sum()
        scores = torch.stack([score.sum(dtype=torch.float64), accepted.sum().double()])
        s.pixels, s.scores = s.pixels.to(pixels.device) + pixels, s.scores.to(scores.device) + scores
        s.tiles += len(accepted)

    def snapshot(self) -> _Sums:
        """Return a copy of what this rank has counted since the last report."""
        return replace(self._sums)  # its tensors are replaced, never changed

    def restore(self, snapshot: _Sums) -> None:
        """Set the counts back to what `snapshot` returned, after a step that failed."""
        self._sums = snapshot

    def report(self) -> Figures:
        """Return the figures since the last report, and count a bad row; all ranks call this together."""
        # The sums of all ranks, so that all of them see the same row.
        inside, tiles, accepted, score, *counts = self._totals()
        s, self._sums = self._sums, self._new_sums()
        kept = sum(counts)
        shares = [n / max(1, kept) for n in counts]
        self._reason = "" if self.control else self._fault(kept / max(1, inside), shares)
        self._warn_of_few(kept / max(1, inside))
        self.bad_rows = self.bad_rows + 1 if self._reason else 0
        values = {
            "kept_tiles": accepted / max(1, tiles),
            "kept_pixels": kept / max(1, inside),
            "tile_entropy": score / max(1, tiles),
            "class_shift": sum(abs(p - q) for p, q in zip(shares, self.labelled, strict=True)) / 2,
        }
        kept_of = {c: n / max(1, inside) for c, n in zip(self.classes, counts, strict=True)}
        # What teachers in other processes cost since the last row
        seconds = self._sums.since - s.since
        waiting, service = service_figures(s.stats, self._sums.stats, seconds, self.world)
        return Figures({**values, **waiting}, {"kept": kept_of, **service})

    def check(self) -> None:
        """Act on a collapse, once, at its last row: log it, go back, or end; all ranks call this together.

        Raises:
            Collapsed: the run is to go back.
            ValueError: it has gone back too often.
        """
        if self.bad_rows != ROWS:
            return
        collapse = f"the pseudo-labels have collapsed: in {ROWS} rows of the journal, {self._reason}"
        if self._good is None:
            log.warning(
                f"warning: {collapse}; if the validation mIoU falls too, {self._advice()}, or set "
                "semi.on_collapse=rollback, in a new run folder"
            )
        elif self.rollbacks == ROLLBACKS:
            raise ValueError(
                f"{collapse}, after {ROLLBACKS} rollbacks; {self._advice()}, in a new run folder"
            )
        # Rank 0 decides for all, which wait for its answer: files show up on other nodes a little later.
        elif self.world.broadcast(self._good()):
            raise Collapsed(collapse)
        else:
            log.warning(f"warning: {collapse}; there is no good checkpoint to go back to yet, so it goes on")

    def _advice(self) -> str:
        """Return what helps against the last bad row."""
        if self._too_few:
            return "lower semi.confidence, or train the start longer: it is sure of next to nothing"
        return "raise semi.confidence, lower semi.weight or optim.lr"

    def _warn_of_few(self, kept: float) -> None:
        """Say once when the pseudo-labels have been few for some rows, but enough to be no collapse."""
        self._few_rows = self._few_rows + 1 if FLOOR <= kept < FEW and not self.control else 0
        if self._few_rows == ROWS:
            log.warning(
                f"warning: {kept:.1%} of the pixels get a pseudo-label, so little is learned from them; lower "
                "semi.confidence, or train the start longer, in a new run folder"
            )

    def _fault(self, kept: float, shares: list[float]) -> str:
        """Return what is bad about a row, in words; nothing where it is good."""
        self._too_few = kept < FLOOR
        if self._too_few:
            return f"{kept:.2%} of the pixels were kept (less than {FLOOR:.1%})"
        for name, share, usual in zip(self.classes, shares, self.labelled, strict=True):
            if share > DOMINANT and usual < ORDINARY:
                return f"'{name}' has {share:.1%} of the kept pixels and {usual:.1%} of the labelled ones"
        return ""

    def _totals(self) -> list[float]:
        """Return the sums of all ranks: pixels inside, tiles, accepted ones, scores, kept pixels of each class."""
        s = self._sums
        pixels, (score, accepted) = s.pixels.tolist(), s.scores.tolist()
        mine = [pixels[_INSIDE], s.tiles, accepted, score, *pixels[: len(self.classes)]]
        # waits for all ranks
        found: list[float] = self.world.all_reduce_sum(torch.tensor(mine, dtype=torch.float64)).tolist()
        return found

    def _new_sums(self) -> _Sums:
        stats = replace(self.stats, ages=Counter(self.stats.ages), age_steps=Counter(self.stats.age_steps))
        pixels, scores = torch.zeros(_INSIDE + 1, dtype=torch.int64), torch.zeros(2, dtype=torch.float64)
        return _Sums(pixels, scores, stats, time.monotonic())

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold: a run may stop between two reports. All ranks call this together."""
        return {"bad_rows": self.bad_rows, "rollbacks": self.rollbacks, "sums": self._totals()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; rank 0 takes the sums of all ranks, the others start from 0."""
        self.bad_rows, self.rollbacks = int(state["bad_rows"]), int(state["rollbacks"])
        self._sums = self._new_sums()
        if self.world.is_main:
            s, (inside, tiles, accepted, score, *counts) = self._sums, state["sums"]
            s.tiles, s.scores = int(tiles), torch.tensor([score, accepted], dtype=torch.float64)
            s.pixels[: len(counts)], s.pixels[_INSIDE] = torch.tensor(counts).long(), int(inside)
