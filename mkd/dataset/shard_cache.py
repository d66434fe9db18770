"""Copies of remote shards in a local folder that the processes of a node share."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mkd.dataset.index import ShardInfo
from mkd.storage.folder import Folder

CHUNK = 16 << 20  # bytes a request
IN_USE_SECONDS = (
    60.0  # seconds after its last use in which a copy makes no room for another, and a refusal lasts
)
_PART = ".part-"

log = logging.getLogger(__name__)


class _NoCopyError(Exception):
    """Why a shard is not copied."""


class ShardCache:
    """Whole shards by their SHA-256, copied when first read, the least recently used removed for new ones.

    A copy is checked, written aside and renamed; processes that want the same one wait for the first. Where no copy
    can be made the reason is logged, and the caller reads the shard where it is.

    Args:
        folder: of the copies; nothing else should be in it.
        limit: bytes of all copies together.

    Raises:
        ValueError: the folder cannot be made.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._refused: dict[str, float] = {}
        self._said: set[str] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"{folder} cannot be made ({error.strerror}); give another cache folder, or none"
            ) from None

    def open(self, origin: Folder, info: ShardInfo) -> int | None:
        """Open the copy of a shard; it stays readable when it is removed meanwhile.

        Args:
            origin: where the shard is.
            info: which one.

        Returns:
            Its descriptor, to be closed by the caller; None when no copy can be made.

        Raises:
            FileNotFoundError: no such shard at its origin.
            ValueError: its origin refuses or does not answer.
        """
        if time.monotonic() < self._refused.get(info.sha256, 0.0):
            return None
        try:
            found = self._find(info)
            return self._make(origin, info) if found is None else found
        except FileNotFoundError:
            raise
        except (_NoCopyError, OSError) as error:
            self._refused[info.sha256] = time.monotonic() + IN_USE_SECONDS
            reason = getattr(error, "strerror", None) or str(error)
            if reason not in self._said:
                self._said.add(reason)
                log.warning(
                    "%s: no copy in %s (%s); it is read from where it is, slower",
                    origin.url_of(info.file), self.folder, reason,
                )  # fmt: skip
            return None

    def drop(self, info: ShardInfo) -> None:
        """Remove a copy that turned out damaged."""
        self._path(info).unlink(missing_ok=True)

    def _path(self, info: ShardInfo) -> Path:
        return self.folder / f"{info.sha256}.tar"

    def _find(self, info: ShardInfo) -> int | None:
        try:
            file = os.open(self._path(info), os.O_RDONLY)
        except FileNotFoundError:
            return None
        if os.fstat(file).st_size != info.bytes:  # a crash of the machine
            os.close(file)
            self.drop(info)
            return None
        with suppress(PermissionError):  # another user's copy: its age is not ours to set
            os.utime(file)
        return file

    def _make(self, origin: Folder, info: ShardInfo) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"{_PART}{info.sha256}"
        with _claimed(part) as file:
            if (found := self._find(info)) is not None:  # made by the process that we waited for
                return found
            self._make_room(file, info.bytes)
            _copy(origin, info, file)
            copy = os.open(part, os.O_RDONLY)
            os.replace(part, self._path(info))
            return copy

    def _there(self, pattern: str) -> dict[Path, os.stat_result]:
        """Return the files of a pattern; one that goes while we look is not there."""
        found = {}
        for path in self.folder.glob(pattern):
            with suppress(FileNotFoundError):
                found[path] = path.stat()
        return found

    def _make_room(self, file: BinaryIO, size: int) -> None:
        """Give a new copy its size at once, so that others count it, after removing old ones where needed."""
        with _claimed(self.folder / ".room"):
            file.truncate(0)  # what a killed process left
            parts = self._there(
                f"{_PART}*"
            )  # first: one that becomes a copy meanwhile is counted twice, not never
            copies = self._there("*.tar")
            found, now = {**copies, **parts}, time.time()
            old = [path for path, told in copies.items() if now - told.st_mtime > IN_USE_SECONDS]
            old += [path for path in parts if _is_left(path)]
            excess = sum(told.st_size for told in found.values()) + size - self.limit
            if excess > sum(found[path].st_size for path in old):
                raise _NoCopyError(
                    f"the shards in use are more than its {self.limit} bytes: give the cache more room"
                )
            for path in sorted(old, key=lambda path: found[path].st_mtime):
                if excess <= 0:
                    break
                path.unlink(missing_ok=True)
                excess -= found[path].st_size
            file.truncate(size)


def _copy(origin: Folder, info: ShardInfo, file: BinaryIO) -> None:
    digest = hashlib.sha256()
    for start in range(0, info.bytes, CHUNK):
        data = origin.read(info.file, start, min(start + CHUNK, info.bytes))
        digest.update(data)
        file.write(data)
    file.flush()
    if digest.hexdigest() != info.sha256:
        raise _NoCopyError(f"its SHA-256 is {digest.hexdigest()[:12]}, the index says {info.sha256[:12]}")


@contextmanager
def _claimed(path: Path) -> Iterator[BinaryIO]:
    """Hold a file that one process at a time may write, waiting for others; removed at the end unless renamed."""
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is(path, file):  # renamed or removed by the one that held it
                continue
            try:
                yield file
            finally:
                if _is(path, file):
                    path.unlink()
            return


def _is(path: Path, file: BinaryIO) -> bool:
    """Say whether a path still leads to an open file."""
    with suppress(FileNotFoundError):
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    return False


def _is_left(path: Path) -> bool:
    """Say whether an unfinished copy is nobody's any more."""
    with suppress(BlockingIOError, FileNotFoundError), open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
