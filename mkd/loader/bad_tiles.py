"""Counts the bad tiles of a run against a budget, lists them in the quarantine files and logs them."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from mkd.atomic import append_line
from mkd.dataset.tile_decoder import BadTile

log = logging.getLogger(__name__)
QUARANTINE_FILES = "quarantine*.jsonl"


class BadTileBudget:
    """The bad tiles of one stream, epoch by epoch, and how many an epoch may have.

    Each rank appends to a list of its own, since lines that several nodes append to one file may overwrite each other.
    All lists of a run, whatever its number of ranks was, are counted, and the count survives a restart.

    Args:
        folder: of the data set.
        labelled: whether its labels are read; with the folder this names the stream in the list.
        tiles: of an epoch.
        share: of them that may be bad, 0..1.
        path: list to append to, quarantine*.jsonl, one JSON object a line; those beside it count. None keeps none.
        key: config key that sets ``share``, for the error message.
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
        self._bad: set[tuple[int, int]] = set()  # (epoch, sample)
        self._logged: set[int] = set()  # samples: each is logged once

    def add(self, epoch: int, sample: int, bad: BadTile) -> None:
        """Count a bad tile.

        Raises:
            ValueError: the epoch has more bad tiles than its budget.
        """
        self._bad.add((epoch, sample))
        if self.path is not None:
            row = {**self.name, "epoch": epoch, "sample": sample, **bad._asdict()}
            append_line(self.path, json.dumps(row, ensure_ascii=False))
            for path in self.path.parent.glob(QUARANTINE_FILES):
                rows = (row for row in _rows(path) if self.name.items() <= row.items())
                self._bad |= {(row["epoch"], row["sample"]) for row in rows}
        count = sum(bad_epoch == epoch for bad_epoch, _ in self._bad)
        if count > self.allowed:
            limit = f"{self.allowed} may be" + (f" ({self.key})" if self.key else "")
            listed = (
                f"; they are listed in {self.path.parent / QUARANTINE_FILES}" if self.path is not None else ""
            )
            raise ValueError(
                f"{bad.reason}; {count} of {self.tiles} tiles are lost in this epoch and {limit}{listed}"
            )
        if sample not in self._logged:
            self._logged.add(sample)
            log.warning("%s; sample %d is taken in its place", bad.reason, bad.replaced_by)


def _rows(path: Path) -> list[dict[str, Any]]:
    """Read a quarantine file; a line that a kill cut short is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
