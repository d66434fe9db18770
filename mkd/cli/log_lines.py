"""Log records as lines for people: what `logging` reports while a command runs, handed to a function."""

import contextlib
import logging
from collections.abc import Callable, Iterator


class _LineHandler(logging.Handler):
    """Hands each record's text to a function.

    `logging` holds this handler's lock meanwhile: threads that log at the same time wait for each other's line.
    """

    def __init__(self, say: Callable[[str], None], level: int) -> None:
        super().__init__(level)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line; a logger inside a routed one has printed its own records already."""
        if getattr(record, "routed", False):
            return
        record.routed = True
        try:
            self._say(self.format(record))
        except Exception:
            self.handleError(record)


@contextlib.contextmanager
def route_log_lines(
    say: Callable[[str], None], logger: str = "mkd", level: int = logging.INFO
) -> Iterator[None]:
    """Route a logger's records to a function while the block runs.

    Blocks may be nested: a record goes to the function of the innermost logger in its name that is routed, once.

    Args:
        say: gets each record's message as one text, from the thread that logs: `Journal.say`, say, or a print.
        logger: whose records, and those of the loggers below it.
        level: least level that is shown.
    """
    routed, handler = logging.getLogger(logger), _LineHandler(say, level)
    before, quiet = routed.level, not routed.isEnabledFor(level)
    if quiet:
        routed.setLevel(level)
    routed.addHandler(handler)
    try:
        yield
    finally:
        routed.removeHandler(handler)
        if quiet:
            routed.setLevel(before)
