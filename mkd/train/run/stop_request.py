"""A request to stop: SIGTERM, SIGUSR1, Ctrl-C or a file; all ranks agree on it and end after the same step."""

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

from mkd.cli.exit import first_rank, under_torchrun
from mkd.distributed.world import World
from mkd.train.run.startup_timer import process_age

LATER, NOW, INTERRUPTED = 1, 2, 3  # levels: SIGUSR1 or the stop file; SIGTERM; Ctrl-C
GRACE_SECONDS = 15.0  # after SIGTERM, in which a step must end; torchrun and Slurm kill after 30
POLL_SECONDS = 1.0  # between two looks at the file
# torchrun passes Ctrl-C on to ranks that have heard it already: another one within this time is the same
ECHO_SECONDS = 1.0
PR_SET_PDEATHSIG = 1  # of Linux


class Stopped(SystemExit):
    """The run has stopped at a checkpoint as it was asked to; ends the process with the status of the level.

    The status is 143 after SIGTERM, 130 after Ctrl-C and 75 (try again) otherwise. Under torchrun it is 0 in place of
    75, because torchrun takes any other for a crash and would start the ranks again.
    """

    def __init__(self, level: int) -> None:
        later = 0 if under_torchrun() else 75
        super().__init__({NOW: 143, INTERRUPTED: 130}.get(level, later))


class StopRequest:
    """Hears requests to stop from the start of a run to its end; a context.

    A rank that reaches no step boundary within `GRACE_SECONDS` of SIGTERM, because another rank has died or a
    collective call hangs, ends by itself. After Ctrl-C it goes on to the next step boundary, however far; a second
    Ctrl-C ends it at once.

    Args:
        world: this process's place.
        file: rank 0 looks for it, and a rank that waits within a step; one that is older than this process is removed
            at the start.
    """

    def __init__(self, world: World, file: Path) -> None:
        """Set the file's path; signals are heard from `__enter__` on."""
        self.world, self.file = world, file
        self._level, self._polled, self._interrupted = 0, -POLL_SECONDS, 0.0
        self._answer: Callable[[], int] | None = None
        self._stopping = threading.Event()
        self._before: list[Any] = []

    def __enter__(self) -> "StopRequest":
        """Take over the three signals, start the watching thread, and remove the file that stopped an earlier run."""
        if self.world.is_main and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
            with contextlib.suppress(FileNotFoundError):
                if self.file.stat().st_mtime < time.time() - process_age():
                    self.file.unlink()
        # Python runs a signal handler between two calls of the main thread only. The pipe tells of a signal at once,
        # to a thread that ends this process if the main thread reaches no step boundary in time.
        self._stopping.clear()
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        watch = threading.Thread(target=_watch, args=(reading, self._stopping), daemon=True)
        self._before = [
            signal.signal(signal.SIGTERM, self._on_signal),
            signal.signal(signal.SIGUSR1, self._on_signal),
            signal.signal(signal.SIGINT, self._on_interrupt),
            signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False),
        ]
        watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        self._stopping.set()
        term, usr1, interrupt, wakeup = self._before
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, term)
        signal.signal(signal.SIGUSR1, usr1)
        signal.signal(signal.SIGINT, interrupt)
        os.close(self._writing)

    def level_of_all_ranks(self) -> int:
        """Return the highest level of all ranks, or 0; all ranks call this after each step.

        Several ranks ask after one step and read the answer after the next: by then all have asked, and none waits.
        """
        if self.world.is_main:
            self._poll_file()
        if self.world.ranks == 1:
            found = self._level
        else:
            found = self._answer() if self._answer is not None else 0
            self._answer = self.world.all_reduce_max(self._level)
        if found:  # a step boundary is reached: the thread that waits for it need not end this process
            self._stopping.set()
        return found

    def is_set_here(self) -> bool:
        """Return whether this rank has heard a signal or sees the file; for a rank that waits, alone, within a step."""
        self._poll_file()
        return self._level > 0

    def acknowledge(self) -> None:
        """Make the file old, so that the next start removes it; rank 0 does it, after the checkpoint."""
        if self.world.is_main:
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.file, (0, 0))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Raise the level; Python calls this in the main thread."""
        self._level = max(self._level, NOW if number == signal.SIGTERM else LATER)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        """Raise the level at the first Ctrl-C, and end at the second; Python calls this in the main thread."""
        now = time.monotonic()
        if self._level < INTERRUPTED:
            self._level, self._interrupted = INTERRUPTED, now
        elif now - self._interrupted > ECHO_SECONDS:
            raise KeyboardInterrupt

    def _poll_file(self) -> None:
        """Look for the file, at most once in `POLL_SECONDS`."""
        now = time.monotonic()
        if now - self._polled >= POLL_SECONDS:
            self._polled = now
            if self.file.exists():
                self._level = max(self._level, LATER)


def end_with_torchrun() -> None:
    """Let this process be killed when the torchrun that started it is: it would write beside the next start's ranks."""
    if under_torchrun() and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _watch(reading: int, stopping: threading.Event) -> None:
    """Wait for signals beside a main thread that may hang in a call, and end this process if it does.

    This thread waits for the pipe; after SIGTERM, and after a second Ctrl-C, it waits for the main thread to reach a
    step boundary or the end. The pipe is closed at the end of the run, which ends the thread.
    """
    interrupted = 0.0
    with open(reading, "rb", buffering=0) as signals:
        while heard := signals.read(1):
            if heard[0] == signal.SIGTERM and not stopping.wait(GRACE_SECONDS):
                _say(
                    f"no step has ended in the {GRACE_SECONDS:.0f} s after SIGTERM; leaving without a checkpoint "
                    "of it, the same command goes on from the last one"
                )
                os._exit(143)
            elif heard[0] == signal.SIGINT and not interrupted:
                interrupted = time.monotonic()
                threading.Thread(target=_explain_interrupt, args=(stopping,), daemon=True).start()
            elif heard[0] == signal.SIGINT and time.monotonic() - interrupted > ECHO_SECONDS:
                stopping.wait(
                    5 * ECHO_SECONDS
                )  # the main thread has raised KeyboardInterrupt and leaves, or it hangs
                if not stopping.is_set():
                    os._exit(130)


def _explain_interrupt(stopping: threading.Event) -> None:
    """Say what happens after Ctrl-C, where the step that it waits for takes long."""
    if not stopping.wait(2 * ECHO_SECONDS) and first_rank():
        _say("Ctrl-C: a checkpoint is saved after this step; Ctrl-C again ends at once, without it")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
