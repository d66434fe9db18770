"""Copies remote shards into a local folder that the processes of a node share."""

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
from mkd.dataset.shard_list import shard_place, shard_url
from mkd.storage.folder import Folder

CHUNK = 16 << 20  # bytes a request
# Seconds after its last use in which a copy is not removed, and for which a failure to copy is remembered.
IN_USE_SECONDS = 60.0
_PART = ".part-"

log = logging.getLogger(__name__)


class _NoCopyError(Exception):
    """Why a shard is not copied."""


class ShardCache:
    """Whole shards by their SHA-256, copied when first read, the least recently used removed for new ones.

    A copy is checked, written aside and renamed; processes that want the same one wait for the first, which holds the
    lock of the unfinished file. A second lock, of the file ``.room``, is held while old copies are counted and removed:
    one process at a time. Where no copy can be made the reason is logged, and the caller reads from the server.

    Args:
        folder: of the copies; nothing else should be in it.
        limit: bytes of all copies together.

    Raises:
        ValueError: the folder cannot be made.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._uncached_until: dict[str, float] = {}  # SHA-256 -> time.monotonic() of the next try
        self._logged: set[str] = set()  # reasons
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"{folder} cannot be made ({error.strerror}); give another cache folder, or none"
            ) from None

    def open(self, origin: Folder, info: ShardInfo) -> int | None:
        """Open the copy of a shard, made now if needed; it stays readable when it is removed meanwhile.

        Args:
            origin: the data set.
            info: which of its shards.

        Returns:
            Its descriptor, to be closed by the caller; None when no copy can be made.

        Raises:
            FileNotFoundError: no such shard on the server.
            ValueError: the server refuses or does not answer.
        """
        if time.monotonic() < self._uncached_until.get(info.sha256, 0.0):
            return None
        try:
            copy = self._open_copy(info)
            return self._make_copy(origin, info) if copy is None else copy
        except FileNotFoundError:
            raise
        except (_NoCopyError, OSError) as error:
            self._uncached_until[info.sha256] = time.monotonic() + IN_USE_SECONDS
            reason = getattr(error, "strerror", None) or str(error)
            if reason not in self._logged:
                self._logged.add(reason)
                log.warning(
                    "%s: no copy in %s (%s); it is read from the server, slower",
                    shard_url(origin, info), self.folder, reason,
                )  # fmt: skip
            return None

    def drop(self, info: ShardInfo) -> None:
        """Remove a copy that turned out damaged."""
        self._path(info).unlink(missing_ok=True)

    def _path(self, info: ShardInfo) -> Path:
        return self.folder / f"{info.sha256}.tar"

    def _open_copy(self, info: ShardInfo) -> int | None:
        """Open the copy of a shard and note its use; None where there is no whole one."""
        try:
            file = os.open(self._path(info), os.O_RDONLY)
        except FileNotFoundError:
            return None
        if os.fstat(file).st_size != info.bytes:  # the machine crashed before the bytes reached the disk
            os.close(file)
            self.drop(info)
            return None
        with suppress(PermissionError):  # another user's copy: its times are not ours to set
            os.utime(file)
        return file

    def _make_copy(self, origin: Folder, info: ShardInfo) -> int:
        """Copy a shard, or wait for the process that does; return the descriptor of the copy."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"{_PART}{info.sha256}"
        with _locked(part) as file:  # waits for the process that copies this shard
            if (copy := self._open_copy(info)) is not None:  # made by that process
                return copy
            self._reserve(file, info.bytes)
            _copy_bytes(origin, info, file)
            copy = os.open(part, os.O_RDONLY)
            os.replace(part, self._path(info))
            return copy

    def _stats(self, pattern: str) -> dict[Path, os.stat_result]:
        """Return the files of a pattern; one that is removed meanwhile is left out."""
        stats = {}
        for path in self.folder.glob(pattern):
            with suppress(FileNotFoundError):
                stats[path] = path.stat()
        return stats

    def _reserve(self, file: BinaryIO, size: int) -> None:
        """Give a new copy its size at once, so that others count it; before that remove old ones where needed."""
        with _locked(self.folder / ".room"):  # one process at a time counts and removes
            file.truncate(0)  # what a killed process left
            parts = self._stats(
                f"{_PART}*"
            )  # first: one that becomes a copy meanwhile is counted twice, not never
            copies = self._stats("*.tar")
            stats, now = {**copies, **parts}, time.time()
            old = [path for path, stat in copies.items() if now - stat.st_mtime > IN_USE_SECONDS]
            old += [path for path in parts if _is_abandoned(path)]
            excess = sum(stat.st_size for stat in stats.values()) + size - self.limit
            if excess > sum(stats[path].st_size for path in old):
                raise _NoCopyError(
                    f"the shards in use are more than its {self.limit} bytes: give the cache more room"
                )
            for path in sorted(old, key=lambda path: stats[path].st_mtime):
                if excess <= 0:
                    break
                path.unlink(missing_ok=True)
                excess -= stats[path].st_size
            file.truncate(size)


def _copy_bytes(origin: Folder, info: ShardInfo, file: BinaryIO) -> None:
    """Copy a shard, and compare its SHA-256 with the index's."""
    digest, (place, name) = hashlib.sha256(), shard_place(origin, info)
    for start in range(0, info.bytes, CHUNK):
        data = place.read(name, start, min(start + CHUNK, info.bytes))
        digest.update(data)
        file.write(data)
    file.flush()
    if digest.hexdigest() != info.sha256:
        raise _NoCopyError(f"its SHA-256 is {digest.hexdigest()[:12]}, the index says {info.sha256[:12]}")


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Open a file under an exclusive lock, waiting for its holder; the file is removed at the end unless renamed."""
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_same_file(
                path, file
            ):  # renamed or removed by the process that held it: open the new one
                continue
            try:
                yield file
            finally:
                if _is_same_file(path, file):
                    path.unlink()
            return


def _is_same_file(path: Path, file: BinaryIO) -> bool:
    """Say whether a path still leads to an open file."""
    with suppress(FileNotFoundError):
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    return False


def _is_abandoned(path: Path) -> bool:
    """Say whether no process holds the lock of an unfinished copy."""
    with suppress(BlockingIOError, FileNotFoundError), open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
