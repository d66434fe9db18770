"""Where the time from the start of a process to its first training step went."""

import os
import time

from torch import Tensor


class StartupTimer:
    """Measures the parts of the start-up; the first timer of a process counts from the process's start.

    Attributes:
        parts: seconds by name.
        reported: whether the first step has been logged.
    """

    _counted = False  # the imports of a process

    def __init__(self) -> None:
        """Start the timer; what came before in this process are its imports."""
        self.parts: dict[str, float] = {}
        self.reported = False
        self._last = time.monotonic()
        if not StartupTimer._counted:
            self._last -= process_age()
            StartupTimer._counted = True
            self.lap("imports")

    def lap(self, name: str) -> None:
        """Count the time since the last call for ``name``."""
        now = time.monotonic()
        self.parts[name] = self.parts.get(name, 0.0) + now - self._last
        self._last = now

    def first_step(self, loss: Tensor) -> str:
        """Wait for the first step's loss, and return the sentence for the journal."""
        loss.item()
        self.lap("first step")
        self.reported = True
        shown = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.parts.items())
        return f"start-up to first step: {sum(self.parts.values()):.1f} s ({shown})"


def process_age() -> float:
    """Return the seconds since this process was started; where there is no /proc, its CPU seconds."""
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            ticks = int(
                file.read().rpartition(")")[2].split()[19]
            )  # field 22: start, in ticks since the boot
    except OSError:
        return time.process_time()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
