"""A decoding process as the training process has it: started, told what to do, heard, missed when it dies."""

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
    """One decoding process, seen from the training process.

    Args:
        setup: what to read, and where to put it.
    """

    def __init__(self, setup: WorkerSetup) -> None:
        near, far = socket.socketpair()
        root = str(Path(__file__).resolve().parents[3])  # for a checkout that is not installed
        paths = [root, os.environ.get("PYTHONPATH", "")]
        single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        # glibc would give the memory of each range back to the system, and get it anew, page by page.
        kept = {"MALLOC_MMAP_THRESHOLD_": str(64 << 20), "MALLOC_TRIM_THRESHOLD_": str(512 << 20)}
        with far:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mkd.loader.workers.worker_main", str(far.fileno())],
                pass_fds=(far.fileno(), setup.file),
                stdin=subprocess.DEVNULL,
                env={**os.environ, **single, **kept, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            )
        self.connection: Connection[Any, Any] = Connection(near.detach())
        self.send(setup)

    def send(self, message: PrefetchRequest | list[DecodeRequest] | WorkerSetup) -> None:
        """Send a message.

        Raises:
            ValueError: the process died.
        """
        try:
            self.connection.send(message)
        except OSError:
            self._died()

    def receive(self) -> list[DecodeResult]:
        """Take the next answer, to a list of orders; waits for it.

        Raises:
            ValueError: the process died, or its sentence.
            RuntimeError: a mistake of ours there, with its traceback.
        """
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            self._died()
        if isinstance(answer, WorkerFailure):
            if answer.is_bug:
                raise RuntimeError(f"a decoding process failed:\n{answer.text}")
            raise ValueError(answer.text)
        assert isinstance(answer, list)
        return answer

    def join(self) -> None:
        """Wait for the end of the process; the line must be closed."""
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _died(self) -> NoReturn:
        self.join()
        code = self.process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        raise ValueError(
            f"decoding process {self.process.pid} {how}; if the machine ran out of memory, lower data.workers or "
            "data.batch; then start again, the run goes on from its last checkpoint"
        )
