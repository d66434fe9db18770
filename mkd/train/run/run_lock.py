"""The lock of a run folder: it names the one process that writes there, so that two starts of a command do not mix."""

import contextlib
import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

from mkd.atomic import write_text
from mkd.cli.exit import under_torchrun

log = logging.getLogger(__name__)

EXIT_SECONDS = 10.0  # in which a killed process gives its memory back


class LockLost(SystemExit):
    """Another process has taken the run folder; ends this one with status 2, under torchrun with 0: no new start."""

    def __init__(self) -> None:
        super().__init__(0 if under_torchrun() else 2)


class RunLock:
    """A lock file in a run folder: host, pid, start time and Slurm job of the process that writes the folder.

    Processes are told apart by their start too, since pids are used again. A process of another node cannot be looked
    at, and a lost node never gives its lock back, so a new start takes the lock from it; a process that still runs
    finds that out before it next saves.

    Args:
        path: of the file, in the run folder.
    """

    def __init__(self, path: Path) -> None:
        """Read this process's identity; nothing is locked yet."""
        self.path = path
        self.identity = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _start_ticks(os.getpid()),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "job": os.environ.get("SLURM_JOB_ID"),
            "restart": os.environ.get("SLURM_RESTART_COUNT"),
        }

    def acquire(self) -> None:
        """Become the owner; replacing an owner on another host is logged.

        Raises:
            ValueError: the owner lives, on this host.
        """
        owner = self._read()
        if owner is not None and owner["host"] != self.identity["host"]:
            log.warning(
                f"{self.path.parent}: taken over from {_describe(owner)}; if that still runs, which cannot be seen "
                f"from {self.identity['host']}, it ends at its next checkpoint"
            )
        elif owner is not None and owner["pid"] != self.identity["pid"] and _is_alive(owner):
            raise ValueError(
                f"out={self.path.parent} is being written by {_describe(owner)}, which lives; end that one first, or "
                "give another out="
            )
        write_text(self.path, json.dumps(self.identity) + "\n")

    def lost(self) -> str | None:
        """Return a sentence that names the new owner, or None while this process is the owner."""
        owner = self._read()
        if owner == self.identity:
            return None
        who = "an unknown process" if owner is None else _describe(owner)
        return f"{self.path.parent} was taken over by {who}; this process ends and writes nothing more"

    def release(self) -> None:
        """Give the folder up, if this process has it."""
        if self._read() == self.identity:
            self.path.unlink()

    def _read(self) -> dict[str, Any] | None:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            found = json.loads(self.path.read_text(encoding="utf-8"))
            return found if isinstance(found, dict) and found.keys() == self.identity.keys() else None
        return None


def _describe(owner: dict[str, Any]) -> str:
    """Return an owner in words, for messages."""
    job = "" if owner["job"] is None else f", Slurm job {owner['job']}"
    again = "" if owner["restart"] is None else f", requeued {owner['restart']} times"
    return f"process {owner['pid']} on {owner['host']} since {owner['since']}{job}{again}"


def _is_alive(owner: dict[str, Any]) -> bool:
    """Whether a process of this host runs; one that was just killed gets `EXIT_SECONDS` to end."""
    end = time.monotonic() + EXIT_SECONDS
    while owner["started"] is not None and _start_ticks(owner["pid"]) == owner["started"]:
        if time.monotonic() > end:
            return True
        time.sleep(0.1)
    return False


def _start_ticks(pid: int) -> int | None:
    """Return when a process was started, in ticks since the boot; None for one that has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()  # fields 3 and, 22nd, the start
    return None if state in "ZX" else int(fields[18])
