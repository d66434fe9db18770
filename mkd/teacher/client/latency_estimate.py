"""How long one teacher takes for a tile, as a student sees it."""

SHARE = 0.2  # of the newest answer in the average
FAR = 3.0  # times the best teacher's pace that is far slower
RETRY = 60.0  # seconds after which one that was far slower and was not asked since is tried again
OVERDUE = 5.0  # times the expected seconds after which an answer is overdue
JITTER = 0.2  # seconds that any answer may take before it can be overdue


class LatencyEstimate:
    """Seconds a tile, averaged over answers; not tiles a second, whose average hardly sees one very slow answer.

    ::

        p <- 0.8 p + 0.2 (seconds since it was first in line) / (its tiles)

    Only what is far slower is tried again: to forget small differences too would make students that share teachers
    all ask the same one (played through by `launch/throughput.py teacher`).

    All times are seconds of one clock.

    Attributes:
        seconds: p, or None before the first answer.
        since: when the request that is first in line became it; the end of the last answer while none is there.
    """

    def __init__(self) -> None:
        """Nothing is known."""
        self.seconds: float | None = None
        self.since = 0.0

    def begin(self, now: float) -> None:
        """Start the clock: a request is the only one."""
        self.since = now

    def answer(self, now: float, tiles: int, worked: bool) -> None:
        """Take up an answer; ``worked`` says whether it cost its tiles' time."""
        if worked:
            pace = (now - self.since) / tiles
            self.seconds = pace if self.seconds is None else (1 - SHARE) * self.seconds + SHARE * pace
        self.since = now

    def expected(self, now: float, best: float, tiles: int, outstanding: int, first: int) -> float:
        """Return the seconds until a new request would be answered.

        Args:
            now: the time.
            best: seconds a tile of the best teacher; stands in where nothing is known.
            tiles: of the new request.
            outstanding: tiles asked and not answered.
            first: tiles of the request that is first in line, 0 where none is.
        """
        pace = best if self.seconds is None else self.seconds
        if first == 0:
            again = pace > FAR * best and now - self.since > RETRY
            return tiles * (best if again else pace)
        # One that is late already is expected to take as long again as it is late.
        return (outstanding + tiles) * pace + max(0.0, now - self.since - first * pace)

    def overdue(self, now: float, best: float, first: int) -> bool:
        """Return whether the request of so many tiles that is first in line takes far longer than such have taken."""
        if self.seconds is None:
            return False
        return now - self.since > OVERDUE * max(JITTER, first * min(self.seconds, FAR * best))
