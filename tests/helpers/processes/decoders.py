"""The decoding processes of a process: found, watched, killed."""

import os
import time
from pathlib import Path


def decoders(parent=None):
    """Return the ids of the living decoding processes that a process (by default this one) has started."""
    parent = parent or os.getpid()
    found = []
    for task in Path(f"/proc/{parent}/task").glob("*/children"):
        for pid in task.read_text().split():
            if b"mkd.loader.workers.worker_main" in _read(pid, "cmdline") and _read(pid, "stat").split()[
                2:3
            ] != [b"Z"]:
                found.append(int(pid))
    return sorted(found)


def gone(pids):
    """Wait up to a minute for processes to end; return those that did not."""
    for _ in range(600):
        left = [pid for pid in pids if _read(pid, "stat").split()[2:3] not in ([], [b"Z"])]
        if not left:
            break
        time.sleep(0.1)
    return left


def rss(pid):
    """Return a process's resident memory in bytes."""
    pages = _read(pid, "statm").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _read(pid, name):
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # the process ended meanwhile
        return b""
