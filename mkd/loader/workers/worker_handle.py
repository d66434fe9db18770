"""Starts a decoding process, exchanges messages with it, and reports its death."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from mkd.loader.workers.messages import (
    DecodeRequest,
    DecodeResult,
    PrefetchRequest,
    WorkerFailure,
    WorkerSetup,
)


class WorkerHandle:
    """One decoding process, as the training process sees it.

    The two share a socket pair. Closing `connection` ends the process; its death closes the other end, so that
    `receive` returns at once and nobody waits in vain.

    Args:
        setup: what to read, and the buffers to decode into.
    """

    def __init__(self, setup: WorkerSetup) -> None:
        parent_end, child_end = socket.socketpair()
        root = str(Path(__file__).resolve().parents[3])  # for a checkout that is not installed
        paths = [root, os.environ.get("PYTHONPATH", "")]
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        # glibc would give the memory of each range back to the system, and fault it in again page by page.
        malloc = {"MALLOC_MMAP_THRESHOLD_": str(64 << 20), "MALLOC_TRIM_THRESHOLD_": str(512 << 20)}
        with child_end:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mkd.loader.workers.worker_main", str(child_end.fileno())],
                pass_fds=(child_end.fileno(), setup.file),
                stdin=subprocess.DEVNULL,
                env={**os.environ, **threads, **malloc, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            )
        self.connection: Connection[Any, Any] = Connection(parent_end.detach())
        self.send(setup)

    def send(self, message: PrefetchRequest | list[DecodeRequest] | WorkerSetup) -> None:
        """Send a message.

        Raises:
            ValueError: the process died.
        """
        try:
            self.connection.send(message)
        except OSError:
            self._raise_death()

    def receive(self) -> list[DecodeResult]:
        """Wait for the next answer, to a list of decode requests.

        Raises:
            ValueError: the process died, or the sentence that it sent.
            RuntimeError: a bug there, with its traceback.
        """
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            self._raise_death()
        if isinstance(answer, WorkerFailure):
            if answer.is_bug:
                raise RuntimeError(f"a decoding process failed:\n{answer.text}")
            raise ValueError(answer.text)
        assert isinstance(answer, list)
        return answer

    def join(self) -> None:
        """Wait for the process to exit; the connection must be closed."""
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _raise_death(self) -> NoReturn:
        self.join()
        code = self.process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        raise ValueError(
            f"decoding process {self.process.pid} {how}; if the machine ran out of memory, lower data.workers or "
            "data.batch; then start again, the run goes on from its last checkpoint"
        )
