"""Which unlabelled tiles were trained on and which the filter rejected, step by step: RUN/ledger-RANK.jsonl."""

import json
from collections.abc import Sequence
from pathlib import Path

from mkd.atomic import append_line, write_text

Pair = tuple[int, int]


class Ledger:
    """A list of (epoch, sample) pairs, one line a step, for proofs that no tile is lost or used twice.

    Args:
        path: one file a rank.
    """

    def __init__(self, path: Path) -> None:
        """Touch nothing yet."""
        self.path = path

    def begin(self, step: int) -> None:
        """Drop the lines of later steps, which a killed run wrote after its checkpoint, and a half-written one."""
        lines = [json.dumps(row) + "\n" for row in self._rows() if row["step"] <= step]
        write_text(self.path, "".join(lines))

    def add(self, step: int, trained: Sequence[Pair], rejected: Sequence[Pair]) -> None:
        """Record the tiles of one step: those it trains on, and those the filter rejected to fill it."""
        append_line(self.path, json.dumps({"step": step, "trained": trained, "rejected": rejected}))

    def _rows(self) -> list[dict[str, int]]:
        rows = []
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        for line in text.splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return rows
