"""Tiles that are lost while a data set is read: listed, said aloud, and held against a budget."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from mkd.atomic import append_line
from mkd.dataset.tile_decoder import BadTile

log = logging.getLogger(__name__)
LISTS = "quarantine*.jsonl"


class BadTileBudget:
    """The lost tiles of one stream, epoch by epoch.

    Each rank appends to a list of its own, since lines that several nodes append to one file may overwrite each other.
    All lists of a run, whatever its number of ranks was, are counted, and the count survives a restart.

    Args:
        folder: of the data set.
        labelled: whether its labels are read; with the folder this names the stream in the list.
        tiles: of an epoch.
        share: of them that may be lost in an epoch.
        path: list to append to, quarantine*.jsonl, one JSON object a line; those beside it count. None keeps none.
        key: what sets ``share``, for the sentence.
    """

    def __init__(
        self,
        folder: str,
        labelled: bool,
        tiles: int,
        share: float = 0.0,
        path: Path | None = None,
        key: str = "",
    ) -> None:
        self.name = {"set": folder, "labelled": labelled}
        self.tiles, self.path, self.key = tiles, path, key
        self.allowed = math.floor(share * tiles)
        self._lost: set[tuple[int, int]] = set()
        self._said: set[int] = set()

    def add(self, epoch: int, sample: int, lost: BadTile) -> None:
        """Count a lost tile.

        Raises:
            ValueError: the epoch lost more than its budget.
        """
        self._lost.add((epoch, sample))
        if self.path is not None:
            row = {**self.name, "epoch": epoch, "sample": sample, **lost._asdict()}
            append_line(self.path, json.dumps(row, ensure_ascii=False))
            for path in self.path.parent.glob(LISTS):
                ours = (r for r in _rows(path) if self.name.items() <= r.items())
                self._lost |= {(r["epoch"], r["sample"]) for r in ours}
        number = sum(e == epoch for e, _ in self._lost)
        if number > self.allowed:
            limit = f"{self.allowed} may be" + (f" ({self.key})" if self.key else "")
            where = f"; they are listed in {self.path.parent / LISTS}" if self.path is not None else ""
            raise ValueError(
                f"{lost.reason}; {number} of {self.tiles} tiles are lost in this epoch and {limit}{where}"
            )
        if sample not in self._said:
            self._said.add(sample)
            log.warning("%s; sample %d is taken in its place", lost.reason, lost.replaced_by)


def _rows(path: Path) -> list[dict[str, Any]]:
    """Read a list of lost tiles; a line that a kill cut short is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
