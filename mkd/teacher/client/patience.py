"""How long a student waits while no teacher serves it."""

import logging
import time
from collections.abc import Callable

from mkd.teacher.api import TeachersGone

LOG_AFTER, LOG_EVERY = 2.0, 10.0  # seconds of waiting that are worth a line, and between two lines

log = logging.getLogger(__name__)


class Patience:
    """The clock of waits without a teacher; the dispatcher's lock guards it.

    Args:
        seconds: to wait for a teacher.
        fallback: whether the student can answer itself afterwards.
    """

    def __init__(self, seconds: float, fallback: bool) -> None:
        """Start the clock."""
        self._seconds, self._fallback = seconds, fallback
        self._answered, self._logged, self._alone = time.monotonic(), 0.0, False

    def restart(self) -> None:
        """Start again: a teacher has answered."""
        self._answered, self._alone = time.monotonic(), False

    def ended(self, began: float, reasons: Callable[[], str]) -> bool:
        """Return whether the student is to answer itself, while no teacher serves it; logs that it waits.

        Args:
            began: when this wait began, monotonic seconds.
            reasons: returns why each teacher does not serve, for people.

        Raises:
            TeachersGone: the time is over and there is no fallback.
        """
        if self._alone:
            return True
        now = time.monotonic()
        waited = now - max(began, self._answered)
        if waited >= self._seconds:
            if not self._fallback:
                raise TeachersGone(
                    f"no teacher for {waited:.0f} s ({reasons()}); start one (launch/teacher.py) and run the same "
                    "command again, or set teacher.fallback=local"
                )
            self._alone = True
            text = "no teacher for %.0f s (%s): going on with the local one until one is back"
            log.warning(text, waited, reasons())
        elif waited > LOG_AFTER and now - self._logged > LOG_EVERY:
            self._logged = now
            log.warning("waiting for a teacher (%s), for %.0f s yet", reasons(), waited)
        return self._alone
