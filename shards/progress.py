"""Messages of the commands: numbers in words, and progress on stderr (a bar on a terminal, else plain lines)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from mkd.dataset.index import DatasetIndex

T = TypeVar("T")
_INTERVAL_S = 10.0  # seconds between two plain lines


def progress(items: Iterable[T], total: int, title: str) -> Iterator[T]:
    """Yield items and show on stderr how many are done.

    Args:
        items: what to pass on.
        total: how many there will be.
        title: what is being done.

    Returns:
        An iterator over the items.
    """
    if sys.stderr.isatty():
        from rich.console import Console  # 0.1 s, which worker processes need not wait
        from rich.progress import track as rich_track

        yield from rich_track(items, title, total=total, console=Console(stderr=True), transient=True)
        return
    printed = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - printed > _INTERVAL_S:
            printed = time.monotonic()
            print(f"{title}: {done} of {total}", file=sys.stderr, flush=True)
        yield item


def pluralize(number: int, noun: str) -> str:
    """Write a number with its noun: "1 tile", "2,000 tiles"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def list_first(values: Iterable[object], limit: int = 5) -> str:
    """Join the first values by commas, and count the others: "a, b and 3 more"."""
    texts = [str(value) for value in values]
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more


def summarize(index: DatasetIndex) -> str:
    """Sum up a data set: "130 tiles (26 labelled) in 1 shard, 12.3 MB"."""
    tiles = f"{pluralize(index.samples, 'tile')} ({index.labelled:,} labelled)"
    return f"{tiles} in {pluralize(len(index.shards), 'shard')}, {index.bytes / 1e6:.1f} MB"
