"""Who writes a run folder: one process, whose name lies in it, so that two starts of one command do not mix."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkd.atomic import write_text
from mkd.train.run.stop_request import under_torchrun

DYING = 10.0  # seconds in which a killed process gives its memory back


class LockLost(SystemExit):
    """Another process has taken the run folder; ends this one with status 2, under torchrun with 0: no new start."""

    def __init__(self) -> None:
        super().__init__(0 if under_torchrun() else 2)


class RunLock:
    """The claim of a process on a run folder: a file with host, pid, start time and Slurm job.

    Processes are told apart by their start too, since numbers come again. That of another node cannot be looked at,
    and a node that is lost says nothing, so the claim is taken from it; a process finds out before it next saves.

    Args:
        path: of the file, in the run folder.
    """

    def __init__(self, path: Path) -> None:
        """Claim nothing yet."""
        self.path = path
        self.me = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "job": os.environ.get("SLURM_JOB_ID"),
            "restart": os.environ.get("SLURM_RESTART_COUNT"),
        }

    def acquire(self, say: Callable[[str], None]) -> None:
        """Become the owner; that an owner on another host is replaced is said.

        Raises:
            ValueError: the owner lives, on this host.
        """
        owner = self._read()
        if owner is not None and owner["host"] != self.me["host"]:
            say(
                f"{self.path.parent}: taken over from {_named(owner)}; if that still runs, which cannot be seen from "
                f"{self.me['host']}, it ends at its next checkpoint"
            )
        elif owner is not None and owner["pid"] != self.me["pid"] and _lives(owner):
            raise ValueError(
                f"out={self.path.parent} is being written by {_named(owner)}, which lives; end that one first, or give "
                "another out="
            )
        write_text(self.path, json.dumps(self.me) + "\n")

    def lost(self) -> str | None:
        """Return a sentence that says who has taken the folder, or None while this process is the owner."""
        owner = self._read()
        if owner == self.me:
            return None
        who = "an unknown process" if owner is None else _named(owner)
        return f"{self.path.parent} was taken over by {who}; this process ends and writes nothing more"

    def release(self) -> None:
        """Give the folder up, if this process has it."""
        if self._read() == self.me:
            self.path.unlink()

    def _read(self) -> dict[str, Any] | None:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            found = json.loads(self.path.read_text(encoding="utf-8"))
            return found if isinstance(found, dict) and found.keys() == self.me.keys() else None
        return None


def _named(owner: dict[str, Any]) -> str:
    job = "" if owner["job"] is None else f", Slurm job {owner['job']}"
    again = "" if owner["restart"] is None else f", requeued {owner['restart']} times"
    return f"process {owner['pid']} on {owner['host']} since {owner['since']}{job}{again}"


def _lives(owner: dict[str, Any]) -> bool:
    """Whether a process of this host lives; one that has been killed gets the time to be gone."""
    end = time.monotonic() + DYING
    while owner["started"] is not None and _started(owner["pid"]) == owner["started"]:
        if time.monotonic() > end:
            return True
        time.sleep(0.1)
    return False


def _started(pid: int) -> int | None:
    """Return when a process was started, in ticks since the boot; None for one that has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()  # fields 3 and, 22nd, the start
    return None if state in "ZX" else int(fields[18])
