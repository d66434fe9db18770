"""What a service tells about itself: counted while it works, printed for people and scripts."""

import math
import threading
import time
from collections import deque
from typing import Any

from mkd.cli.printable import escape_controls


class ServiceMetrics:
    """Counts of one service; any thread may add.

    Attributes:
        tiles: labelled since the start.
        batches: forward passes since the start.
        swaps: times that newer weights were taken up.
    """

    WINDOW = 1024  # answers that rate and latency are taken from

    def __init__(self) -> None:
        """Start the clock."""
        self._lock, self.born = threading.Lock(), time.monotonic()
        self.tiles = self.batches = self.swaps = 0
        self._answers: deque[tuple[float, int, float]] = deque(maxlen=self.WINDOW)

    def batch(self, tiles: int) -> None:
        """Count a forward pass."""
        with self._lock:
            self.tiles, self.batches = self.tiles + tiles, self.batches + 1

    def swap(self) -> None:
        """Count a change of weights."""
        with self._lock:
            self.swaps += 1

    def answer(self, tiles: int, latency: float) -> None:
        """Count an answer: its tiles and the seconds since the request was read."""
        with self._lock:
            self._answers.append((time.monotonic(), tiles, latency))

    def read(self, seconds: float = 60.0) -> dict[str, Any]:
        """Return counts, tiles/s over the last ``seconds`` and latency percentiles of the last answers in ms."""
        now = time.monotonic()
        with self._lock:
            recent = [a for a in self._answers if now - a[0] <= seconds]
            latencies = sorted(a[2] for a in self._answers)
            counts = {"tiles": self.tiles, "batches": self.batches, "swaps": self.swaps}
        # A full window may reach back less far than `seconds`; its first answer only marks the start.
        since = recent[0][0] if len(recent) == self.WINDOW else max(self.born, now - seconds)
        tiles = sum(a[1] for a in recent[1 if len(recent) == self.WINDOW else 0 :])
        return {
            **counts,
            "tiles_per_s": tiles / max(now - since, 1e-3),
            "latency_ms_p50": 1e3 * _percentile(latencies, 0.50),
            "latency_ms_p99": 1e3 * _percentile(latencies, 0.99),
            "uptime_s": now - self.born,
        }


def _percentile(ordered: list[float], share: float) -> float:
    """Return the nearest-rank percentile; 0 of nothing."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def describe(endpoint: str, status: dict[str, Any]) -> str:
    """Return a status for people; what others chose of it, names say, acts on no terminal."""
    s = status
    lines = (
        f"teacher {endpoint} on {s['device']}, up for {s['uptime_s']:.0f} s"
        + (", stopping" if s["stopping"] else ""),
        f"  weights  version {s['version']} ({s['updates']} updates) of session {s['session'] or 'none yet'}",
        f"  clients  {s['clients']} streams, {s['queue']} requests queued",
        f"  work     {s['tiles']} tiles in {s['batches']} batches, {s['tiles_per_s']:.1f} tiles/s",
        f"  latency  p50 {s['latency_ms_p50']:.0f} ms, p99 {s['latency_ms_p99']:.0f} ms",
        "  refused  " + (", ".join(f"{n} {k}" for k, n in s["refused"].items()) or "nothing"),
    )
    return "\n".join(escape_controls(line) for line in lines)
