"""Log records as lines for people: what `logging` reports while a command runs, handed to a function."""

import contextlib
import io
import logging
import sys
from collections.abc import Callable, Iterator
from typing import TextIO


class _LineHandler(logging.Handler):
    """Hands each record's text to a function.

    `logging` holds this handler's lock meanwhile: threads that log at the same time wait for each other's line.
    """

    def __init__(self, say: Callable[[str], None], level: int) -> None:
        super().__init__(level)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line, unless a logger further inside is routed and has printed it already."""
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

    Blocks may be nested: a record goes to one function only, that of the innermost logger in its name that is routed;
    of two blocks with the same logger that of the inner block.

    Args:
        say: gets each record's message as one text, from the thread that logs: `Journal.say`, say, or a print.
        logger: whose records, and those of the loggers below it.
        level: least level that is shown.
    """
    routed, handler = logging.getLogger(logger), _LineHandler(say, level)
    before, quiet = routed.level, not routed.isEnabledFor(level)
    outer = [h for h in routed.handlers if isinstance(h, _LineHandler)]
    if quiet:
        routed.setLevel(level)
    for replaced in outer:
        routed.removeHandler(replaced)
    routed.addHandler(handler)
    try:
        yield
    finally:
        routed.removeHandler(handler)
        for replaced in outer:
            routed.addHandler(replaced)
        if quiet:
            routed.setLevel(before)


def say_on_stdout(text: str) -> None:
    """Print a line on stdout at once, also into a pipe."""
    print(text, flush=True)


def say_on_stderr(program: str) -> Callable[[str], None]:
    """Return a function that prints "program: text" on stderr at once."""
    return lambda text: print(f"{program}: {text}", file=sys.stderr, flush=True)


class _NamedLines(io.TextIOBase):
    """A stream whose lines get a name in front, each written in one piece."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name, self._line = stream, name, ""

    def write(self, text: str) -> int:
        """Write the lines that are whole, and keep the rest."""
        *lines, self._line = (self._line + text).split("\n")
        if lines:
            self._stream.write("".join(f"{self._name}{line}\n" for line in lines))
            self._stream.flush()
        return len(text)

    def flush(self) -> None:
        """Do nothing: whole lines are out already, and others wait for their end."""


@contextlib.contextmanager
def named_lines(name: str) -> Iterator[None]:
    """Put a name in front of each line that is printed on stdout while the block runs."""
    with contextlib.redirect_stdout(_NamedLines(sys.stdout, name)):
        yield
