"""Which unlabelled tiles were trained on and which the filter rejected, step by step: RUN/ledger-RANK.jsonl."""

import json
from collections.abc import Sequence
from pathlib import Path

from mkd.atomic import append_line, write_text
from mkd.distributed.world import World

Pair = tuple[int, int]


class AuditLog:
    """Writes (epoch, sample) pairs, one line a step, as proof that no tile is lost or used twice.

    Each rank writes what it trained on, and those rejected that it had read.

    Args:
        path: ``ledger-RANK.jsonl``.
    """

    def __init__(self, path: Path) -> None:
        """Name the file; it is opened by the first `begin`."""
        self.path = path

    def begin(self, step: int, world: World) -> None:
        """Drop the lines of later steps, which a killed run wrote after its checkpoint, and a half-written one.

        Rank 0 does it too for ranks that the run had before and has no more.
        """
        _cut(self.path, step)
        for path in self.path.parent.glob("ledger-*.jsonl") if world.is_main else ():
            rank = path.stem.removeprefix("ledger-")
            if rank.isdecimal() and int(rank) >= world.ranks:
                _cut(path, step)

    def add(self, step: int, trained: Sequence[Pair], rejected: Sequence[Pair]) -> None:
        """Record the tiles of one step: those it trains on, and those the filter rejected to fill it."""
        append_line(self.path, json.dumps({"step": step, "trained": trained, "rejected": rejected}))


def _cut(path: Path, step: int) -> None:
    """Drop the lines of a file after ``step``, and those that are not whole."""
    rows, text = [], path.read_text(encoding="utf-8") if path.is_file() else ""
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step))
