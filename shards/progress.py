"""Messages of the commands: numbers in words, and progress on stderr (a bar on a terminal, else plain lines)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from mkd.cli.duration import duration
from mkd.dataset.index import DatasetIndex

T = TypeVar("T")
_INTERVAL_S = 10.0  # seconds between two plain lines


def progress(items: Iterable[T], total: int, title: str, unit: str) -> Iterator[T]:
    """Yield items and show on stderr how many are done, and how long the others will take.

    Args:
        items: what to pass on.
        total: how many there will be.
        title: what is being done.
        unit: what an item is, in the plural.

    Returns:
        An iterator over the items.
    """
    if sys.stderr.isatty():
        yield from _bar(items, total, title, unit)
        return
    began = printed = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - printed > _INTERVAL_S:
            printed = time.monotonic()
            left = f", ETA {duration((printed - began) * (total - done) / done)}" if done else ""
            print(f"{title}: {done:,} of {total:,} {unit}{left}", file=sys.stderr, flush=True)
        yield item


def _bar(items: Iterable[T], total: int, title: str, unit: str) -> Iterator[T]:
    from rich.console import Console  # 0.1 s, which worker processes need not wait
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    words = TextColumn(title, markup=False), BarColumn(), MofNCompleteColumn(), TextColumn(unit)
    with Progress(*words, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        yield from bar.track(items, total)


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
