"""How far the windows of a map are."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mkd.cli.duration import duration


@contextmanager
def window_progress(total: int, title: str) -> Iterator[Callable[[int], None]]:
    """Show a bar with the time left on a terminal; elsewhere a plain line each tenth of the windows."""
    console, began = Console(stderr=True, markup=False, emoji=False), time.monotonic()
    texts = (TextColumn(title, markup=False), BarColumn(), MofNCompleteColumn(), TextColumn("windows"))
    with Progress(*texts, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task, done = bar.add_task(title, total=total), 0

        def advance(count: int) -> None:
            nonlocal done
            before, done = done, done + count
            bar.advance(task, count)
            if not console.is_terminal and (10 * done // total > 10 * before // total):
                left = (time.monotonic() - began) * (total - done) / done
                text = f"{title}: {done} of {total} windows ({100 * done // total} %), ETA {duration(left)}"
                console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)

        yield advance
