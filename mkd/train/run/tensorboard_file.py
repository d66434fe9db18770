"""Writes TensorBoard curves in the training thread; a disk that is full ends the curves, not the training."""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import image, scalar


class TensorboardFile:
    """One file of events, as torch's `SummaryWriter` writes them.

    That one writes in a thread, whose error would be printed as a traceback, raised again in the training, or lost.

    Args:
        folder: made when it is not there.
        purge_step: points from this step on, in earlier files, are hidden: they come from a run that was killed.
        warn: gets one sentence when the file cannot be written; nothing is written after that.
    """

    def __init__(self, folder: Path, purge_step: int, warn: Callable[[str], None]) -> None:
        """Create the file."""
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.0"
        self.path, self._warn = folder / name, warn
        self._file: BinaryIO | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab")  # noqa: SIM115 - open until `close`
        except OSError as error:
            self._fail(error)
        self._write(Event(wall_time=time.time(), step=purge_step, file_version="brain.Event:2"))
        self._write(
            Event(wall_time=time.time(), step=purge_step, session_log=SessionLog(status=SessionLog.START))
        )
        self.flush()

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Add a point to a curve."""
        self._write(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))  # type: ignore[no-untyped-call]

    def add_picture(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        """Add a picture, uint8 (H,W,3)."""
        summary = image(name, pixels, dataformats="HWC")  # type: ignore[no-untyped-call]
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        """Hand what was added to the system, so that a kill does not lose it."""
        try:
            if self._file is not None:
                self._file.flush()
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        """Close the file."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, event: Event) -> None:
        if self._file is None:
            return
        try:
            RecordWriter(self._file).write(event.SerializeToString())
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        """Say why the curves end, and drop what the file still holds back."""
        file, self._file = self._file, None
        if file is not None:
            raw = getattr(file, "raw", None)
            if raw is not None:
                raw.close()  # closing the buffer would try to write it again
        self._warn(
            f"warning: TensorBoard's curves cannot be written ({self.path}: {error.strerror or error}); training goes "
            "on without them, metrics.jsonl holds the same numbers"
        )
