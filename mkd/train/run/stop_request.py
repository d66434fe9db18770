"""A wish to stop: SIGTERM, SIGUSR1 or a file, agreed over all ranks, so that all of them end after the same step."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from mkd.distributed.world import World
from mkd.train.run.startup_timer import process_age

LATER, NOW = 1, 2  # wishes: SIGUSR1 or the stop file; SIGTERM
PATIENCE = 15.0  # seconds after SIGTERM in which a step must end; torchrun and Slurm kill after 30
LOOK = 1.0  # seconds between two looks at the file
PR_SET_PDEATHSIG = 1  # of Linux


class Stopped(SystemExit):
    """The run has stopped at a checkpoint as it was asked to; ends the process with the status of the wish.

    The status is 143 after SIGTERM and 75 (try again) otherwise. Under torchrun it is 0 in place of 75, because
    torchrun takes any other for a crash and would start the ranks again.
    """

    def __init__(self, wish: int) -> None:
        later = 0 if under_torchrun() else 75
        super().__init__(143 if wish == NOW else later)


class StopRequest:
    """Hears wishes to stop from the start of a run to its end; a context.

    A rank that reaches no step boundary within `PATIENCE` seconds of SIGTERM, because another rank has died or a
    collective call hangs, ends by itself.

    Args:
        world: this process's place.
        file: rank 0 looks for it, and a rank that waits within a step; one that is older than this process is removed
            at the start.
    """

    def __init__(self, world: World, file: Path) -> None:
        """Listen to nothing yet."""
        self.world, self.file = world, file
        self._level, self._looked = 0, -LOOK
        self._answer: Callable[[], int] | None = None
        self._reached = threading.Event()
        self._before: list[Any] = []

    def __enter__(self) -> "StopRequest":
        """Take over both signals and remove a file that an earlier run obeyed."""
        if self.world.is_main and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
            with contextlib.suppress(FileNotFoundError):
                if self.file.stat().st_mtime < time.time() - process_age():
                    self.file.unlink()
        self._reached.clear()
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        watch = threading.Thread(target=_watch, args=(reading, self._reached), daemon=True)
        self._before = [
            signal.signal(signal.SIGTERM, self._heard),
            signal.signal(signal.SIGUSR1, self._heard),
            signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False),
        ]
        watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        self._reached.set()
        term, usr1, wakeup = self._before
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, term)
        signal.signal(signal.SIGUSR1, usr1)
        os.close(self._writing)

    def level_of_all_ranks(self) -> int:
        """Return the strongest wish of all ranks: 0, `LATER` or `NOW`; to be called by all after each step.

        Several ranks ask after one step and read the answer after the next, so that nobody waits for it.
        """
        if self.world.is_main:
            self._look()
        if self.world.ranks == 1:
            found = self._level
        else:
            found = self._answer() if self._answer is not None else 0
            self._answer = self.world.all_reduce_max(self._level)
        if found:
            self._reached.set()
        return found

    def is_set_here(self) -> bool:
        """Return whether this rank has heard a wish or sees the file; for a rank that waits, alone, within a step."""
        self._look()
        return self._level > 0

    def acknowledge(self) -> None:
        """Make the file old, so that the next start removes it; rank 0, after the checkpoint."""
        if self.world.is_main:
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.file, (0, 0))

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self._level = max(self._level, NOW if number == signal.SIGTERM else LATER)

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked >= LOOK:
            self._looked = now
            if self.file.exists():
                self._level = max(self._level, LATER)


def end_with_torchrun() -> None:
    """Let this process be killed when the torchrun that started it is: it would write beside the next start's ranks."""
    if under_torchrun() and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def under_torchrun() -> bool:
    """Whether torchrun started this process and restarts it when it fails."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def _watch(reading: int, reached: threading.Event) -> None:
    """Wait for SIGTERM beside a main thread that may hang in a call; the pipe's end is the end of the run."""
    with open(reading, "rb", buffering=0) as signals:
        while heard := signals.read(1):
            if heard[0] == signal.SIGTERM and not reached.wait(PATIENCE):
                print(
                    f"no step has ended in the {PATIENCE:.0f} s after SIGTERM; leaving without a checkpoint of it, "
                    "the same command goes on from the last one",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(143)
