"""One job a folder: a second one is refused; parts of one build may run side by side."""

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
HEARTBEAT_S = 20.0  # seconds between two signs of life of a remote lock
STALE_AFTER_S = 300.0  # seconds without one after which a remote lock counts no more
_RETRY_S = 1.0  # seconds for which a lock that others are just looking at is tried


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
        with _lock_local(folder.local, name) as alone:
            yield FolderLock(alone, threading.Event())
        return
    with _lock_remote(folder, name) as lock:
        yield lock


@contextmanager
def _lock_local(folder: Path, name: str) -> Iterator[bool]:
    own = _lock_file(folder / name)
    if own is None:
        raise ValueError(_refusal_message(folder, _describe_holder((folder / name).read_text())))
    try:
        own.write(json.dumps(_owner_record()))
        own.flush()
        alive = [path for path in folder.glob(f"{LOCK_PREFIX}*") if path.name != name and _is_held(path)]
        for path in alive:
            if not _are_parallel_parts(name, path.name):
                raise ValueError(_refusal_message(folder, _describe_holder(path.read_text())))
        yield not alive
    finally:
        (folder / name).unlink(missing_ok=True)  # while it is held: who waits for it makes a new one
        own.close()


def _lock_file(path: Path) -> IO[str] | None:
    """Lock a file; None when another process holds it for longer than a look takes."""
    deadline = time.monotonic() + _RETRY_S
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+")
        with suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
    place, sign, lost, done = (
        Folder(folder.url, HEARTBEAT_S),
        _owner_record(),
        threading.Event(),
        threading.Event(),
    )
    _create_lock_object(place, name, sign)
    beat = threading.Thread(target=_send_heartbeats, args=(place, name, sign, lost, done), daemon=True)
    try:
        others = [other for other in place.sizes() if other.startswith(LOCK_PREFIX) and other != name]
        alive = {other: told for other in others if (told := _live_holder(place, other)) is not None}
        for other, told in alive.items():
            if not _are_parallel_parts(name, other):
                raise ValueError(_refusal_message(folder, told))
        beat.start()
        yield FolderLock(not alive, lost, partial(_is_ours, folder, name, sign["token"]))
    finally:
        done.set()
        if beat.ident is not None:
            beat.join()
        if not lost.is_set():
            place.remove(name)


def _create_lock_object(place: Folder, name: str, sign: dict[str, Any]) -> None:
    """Make the lock object; one of several jobs that try at the same time succeeds."""
    for _ in range(3):  # a lock may be released, or found stale, between two looks
        if place.create(name, json.dumps(sign).encode()):
            return
        told = _live_holder(place, name, sign["token"])
        if told == "own":  # the answer to the first try was lost on its way
            return
        if told is not None:
            raise ValueError(_refusal_message(place, told))
    raise ValueError(_refusal_message(place, "several jobs start at the same time"))


def _live_holder(place: Folder, name: str, token: str = "") -> str | None:
    """Describe who holds a lock object; None, and remove it, when its job is dead or was silent for long."""
    try:
        told = json.loads(place.read(name))
    except FileNotFoundError:
        return None
    if token and told["token"] == token:
        return "own"
    age = time.time() - told["beat"]
    if age > STALE_AFTER_S or _has_exited(told):
        place.remove(name)
        return None
    holder = _describe_holder(json.dumps(told))
    return f"{holder}, last sign of life {max(age, 0):.0f} s ago; it counts for {STALE_AFTER_S:.0f} s"


def _send_heartbeats(
    place: Folder, name: str, sign: dict[str, Any], lost: threading.Event, done: threading.Event
) -> None:
    """Give signs of life; stop when the lock is another's."""
    while not done.wait(HEARTBEAT_S):
        with suppress(Exception):  # no answer, of whatever kind: the next beat tries again
            if not _is_ours(place, name, sign["token"]):
                lost.set()
                return
            place.write(name, json.dumps({**sign, "beat": time.time()}))


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


def _has_exited(told: dict[str, Any]) -> bool:
    """Say whether the holder was a process of this machine that is no more, such as before a requeue."""
    if (told["host"], told.get("space")) != (socket.gethostname(), _pid_namespace()):
        return False
    return not os.path.exists(f"/proc/{told['process']}")


def _pid_namespace() -> str:
    """Name the space in which process numbers hold: containers have their own."""
    return os.readlink("/proc/self/ns/pid")


def _are_parallel_parts(name: str, other: str) -> bool:
    """Say whether two locks are of two parts of the same number of parts."""
    return LOCK_PREFIX not in (name, other) and name.rpartition("-")[2] == other.rpartition("-")[2]


def _owner_record() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "space": _pid_namespace(),
        "process": os.getpid(),
        "token": uuid.uuid4().hex,
        "beat": time.time(),
    }


def _describe_holder(text: str) -> str:
    try:
        told = json.loads(text)
        return f"process {told['process']} on {told['host']}"
    except ValueError:
        return "a job that just starts"


def _refusal_message(folder: Folder | Path, holder: str) -> str:
    return f"another job builds in {folder} ({holder}): wait for its end, or choose another --out"
