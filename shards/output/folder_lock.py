"""Lock of an output folder: a second job is refused; parts of one build may run side by side.

A local folder is locked by `flock`, which ends with the process. Behind a URL the lock is an object with a token and
the time of its last heartbeat; it counts until it was silent for `STALE_AFTER_S`.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from mkd.storage.folder import Folder

LOCK_PREFIX = ".lock"
HEARTBEAT_S = 20.0  # between two heartbeats of a remote lock
STALE_AFTER_S = 300.0  # without a heartbeat, after which a remote lock counts no more
_RETRY_S = 1.0  # for which a lock is tried that others only look at


@dataclass(frozen=True)
class FolderLock:
    """A held lock: whether other parts of the build are at work, whether it was lost, how to look at it now."""

    exclusive: bool
    lost: threading.Event
    is_ours: Callable[[], bool] = lambda: True

    def confirm(self) -> None:
        """Look at the lock now, before something is removed or finished; stop when another job took it over.

        Raises:
            ValueError: it did, or the place does not answer.
        """
        if not self.is_ours():
            self.lost.set()
        self.check()

    def check(self) -> None:
        """Stop when another job was seen to have taken the lock over.

        Raises:
            ValueError: it was.
        """
        if self.lost.is_set():
            raise ValueError(
                "this job gave no sign of life for minutes and another one took its lock: leave the folder to it"
            )


@contextmanager
def lock_folder(folder: Folder, part: tuple[int, int] | None = None) -> Iterator[FolderLock]:
    """Hold the lock of a folder, or of one part of its build.

    Args:
        folder: where something is built; a local one exists.
        part: (number, of how many); None = the whole folder.

    Raises:
        ValueError: another job builds there.
    """
    name = LOCK_PREFIX if part is None else f"{LOCK_PREFIX}-{part[0]}-of-{part[1]}"
    if folder.local is not None:
        with _lock_local(folder.local, name) as exclusive:
            yield FolderLock(exclusive, threading.Event())
        return
    with _lock_remote(folder, name) as lock:
        yield lock


@contextmanager
def _lock_local(folder: Path, name: str) -> Iterator[bool]:
    """Hold a lock file; yield whether no other part of the build is at work."""
    own = _lock_file(folder / name)
    if own is None:
        raise ValueError(_refusal_message(folder, _describe_holder((folder / name).read_text())))
    try:
        own.write(json.dumps(_owner_record()))
        own.flush()
        # Each job locks its own file first and looks at the others' then, so of two at least one sees the other.
        alive = [path for path in folder.glob(f"{LOCK_PREFIX}*") if path.name != name and _is_held(path)]
        for path in alive:
            if not _are_parallel_parts(name, path.name):
                raise ValueError(_refusal_message(folder, _describe_holder(path.read_text())))
        yield not alive
    finally:
        # Remove the file while it is held: a job that waits for it finds another inode, and makes a new file.
        (folder / name).unlink(missing_ok=True)
        own.close()


def _lock_file(path: Path) -> IO[str] | None:
    """Lock a file; None when another process holds it for longer than `_is_held` takes."""
    deadline = time.monotonic() + _RETRY_S
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+")
        with suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before may have removed the file in between; then the lock is on a file without a name.
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                file.truncate()
                return file
        file.close()
        if time.monotonic() > deadline:
            return None
        time.sleep(0.05)


def _is_held(path: Path) -> bool:
    """Say whether a process holds a lock file; remove it when none does."""
    with suppress(FileNotFoundError), open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        path.unlink(missing_ok=True)
    return False


@contextmanager
def _lock_remote(folder: Folder, name: str) -> Iterator[FolderLock]:
    """Hold a lock object, renewed by a thread's heartbeats."""
    place, owner = Folder(folder.url, HEARTBEAT_S), _owner_record()
    # `lost` is set by the heartbeat thread and read by the build; `done` is set here and ends the thread.
    lost, done = threading.Event(), threading.Event()
    _create_lock_object(place, name, owner)
    heartbeat = threading.Thread(target=_send_heartbeats, args=(place, name, owner, lost, done), daemon=True)
    try:
        # As with files: the own object exists before the others' are looked at.
        others = [other for other in place.sizes() if other.startswith(LOCK_PREFIX) and other != name]
        alive = {other: holder for other in others if (holder := _live_holder(place, other)) is not None}
        for other, holder in alive.items():
            if not _are_parallel_parts(name, other):
                raise ValueError(_refusal_message(folder, holder))
        heartbeat.start()
        yield FolderLock(not alive, lost, partial(_is_ours, folder, name, owner["token"]))
    finally:
        # Wait for the thread: a heartbeat that ends after the removal would bring the lock back.
        done.set()
        if heartbeat.ident is not None:
            heartbeat.join()
        if not lost.is_set():
            place.remove(name)


def _create_lock_object(place: Folder, name: str, owner: dict[str, Any]) -> None:
    """Create the lock object; one of several jobs that try at the same time succeeds."""
    for _ in range(3):  # a lock may be released, or found stale, between two looks
        if place.create(name, json.dumps(owner).encode()):
            return
        holder = _live_holder(place, name, owner["token"])
        if holder == "own":  # the answer to the first try was lost on its way
            return
        if holder is not None:
            raise ValueError(_refusal_message(place, holder))
    raise ValueError(_refusal_message(place, "several jobs start at the same time"))


def _live_holder(place: Folder, name: str, token: str = "") -> str | None:
    """Describe who holds a lock object; None, and remove it, when its job is dead or was silent for long."""
    try:
        owner = json.loads(place.read(name))
    except FileNotFoundError:
        return None
    if token and owner["token"] == token:
        return "own"
    age = time.time() - owner["beat"]
    if age > STALE_AFTER_S or _has_exited(owner):
        place.remove(name)
        return None
    holder = _describe_holder(json.dumps(owner))
    return f"{holder}, last sign of life {max(age, 0):.0f} s ago; it counts for {STALE_AFTER_S:.0f} s"


def _send_heartbeats(
    place: Folder, name: str, owner: dict[str, Any], lost: threading.Event, done: threading.Event
) -> None:
    """Renew the lock object until `done`, in a thread of its own; set `lost` when another job holds it."""
    while not done.wait(HEARTBEAT_S):
        with suppress(Exception):  # no answer, of whatever kind: the next beat tries again
            if not _is_ours(place, name, owner["token"]):
                lost.set()
                return
            place.write(name, json.dumps({**owner, "beat": time.time()}))


def _is_ours(place: Folder, name: str, token: str) -> bool:
    """Say whether a lock object is still the one of this job; a damaged one is not."""
    try:
        data = place.read(name)
    except FileNotFoundError:
        return False
    try:
        return bool(json.loads(data)["token"] == token)
    except (ValueError, TypeError, KeyError):
        return False


def _has_exited(owner: dict[str, Any]) -> bool:
    """Say whether the holder was a process of this machine that has ended, such as before a requeue."""
    if (owner["host"], owner.get("space")) != (socket.gethostname(), _pid_namespace()):
        return False
    return not os.path.exists(f"/proc/{owner['process']}")


def _pid_namespace() -> str:
    """Name the namespace of process numbers: containers have their own."""
    return os.readlink("/proc/self/ns/pid")


def _are_parallel_parts(name: str, other: str) -> bool:
    """Say whether two locks are of two parts of the same number of parts."""
    return LOCK_PREFIX not in (name, other) and name.rpartition("-")[2] == other.rpartition("-")[2]


def _owner_record() -> dict[str, Any]:
    """Describe this job; the names are stored in lock files, which other versions read."""
    return {
        "host": socket.gethostname(),
        "space": _pid_namespace(),
        "process": os.getpid(),
        "token": uuid.uuid4().hex,
        "beat": time.time(),
    }


def _describe_holder(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"process {owner['process']} on {owner['host']}"
    except ValueError:
        return "a job that just starts"


def _refusal_message(folder: Folder | Path, holder: str) -> str:
    return f"another job builds in {folder} ({holder}): wait for its end, or choose another --out"
