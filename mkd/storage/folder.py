"""A folder of files on a disk or behind any fsspec URL: ranges, whole writes, and retries of errors that pass."""

from __future__ import annotations

import io
import logging
import os
import random
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

from mkd.atomic import written_aside
from mkd.storage.direct_io import DirectFile
from mkd.storage.remote_file import RemoteFile
from mkd.storage.retry_policy import answer, raise_if_permanent, short

PATIENCE = 300.0  # seconds for which an error that passes is tried again
# A listing kept from before a write is wrong; botocore's own tries would be silent, and longer than some patience.
_CONFIG = {"retries": {"total_max_attempts": 1}, "signature_version": "s3v4"}
_S3: dict[str, Any] = {"use_listings_cache": False, "config_kwargs": _CONFIG}
_S3_KINDS = ("s3", "s3a")
# s3fs copies the parts that are on their way: by default all of a shard.
_PARTS = {"chunksize": 16 << 20, "max_concurrency": 4}

log = logging.getLogger(__name__)
T = TypeVar("T")


class Found(NamedTuple):
    """What a listing tells of a file: name, size in bytes, a mark that changes when it is written anew."""

    name: str
    size: int
    changed: str
    folder: bool


class Folder:
    """One folder, local or remote; names are file names directly inside it, or relative POSIX paths.

    Args:
        url: a path, or an fsspec URL such as ``s3://bucket/tiles`` (endpoint, keys and profile come from the usual
            AWS variables and files) or ``memory://tiles``.
        patience: seconds for which errors that pass (connections, time-outs, 5xx, slow-down) are tried again.

    Raises:
        ValueError: an empty path, a URL without a bucket, or one of an unknown kind.
    """

    def __init__(self, url: str | os.PathLike[str], patience: float = PATIENCE) -> None:
        self.url, self.patience = _url(str(url)), patience
        self.local: Path | None = None
        if "://" not in self.url or self.url.startswith("file://"):
            self.local = Path(self.url.removeprefix("file://"))
            return
        import fsspec  # 0.1 s, which processes that read local files need not wait

        from mkd.storage.presigned import PresignedRanges

        kind = self.url.partition("://")[0]
        options = _S3 if kind in _S3_KINDS else {}
        try:
            self._fs, root = fsspec.url_to_fs(self.url, **options)
        except (ValueError, ImportError) as error:
            raise ValueError(
                f"{url}: files of kind {kind!r} cannot be reached ({short(error)}); give a path, an s3:// URL, or "
                "one that an installed fsspec package knows"
            ) from None
        self._root = root.rstrip("/")
        self._signed = PresignedRanges(self._fs) if options else None

    def __str__(self) -> str:
        """Return the URL or path."""
        return self.url

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes as arguments: each makes its own connections."""
        return Folder, (self.url, self.patience)

    def name(self, name: str) -> str:
        """Return the full URL or path of a file."""
        return name if self.url == "." else f"{self.url}/{name}"

    def child(self, name: str) -> Folder:
        """Return a folder inside this one."""
        return Folder(self.name(name), self.patience)

    def exists(self, name: str) -> bool:
        """Say whether a file is there."""
        if self.local is not None:
            return (self.local / name).is_file()
        try:  # not isfile(), which takes every error for a missing file
            return bool(self._patiently(lambda: self._fs.info(self._path(name)), name)["type"] == "file")
        except FileNotFoundError:
            return False

    def sizes(self) -> dict[str, int]:
        """Return name and size in bytes of each file directly inside; {} when there is no folder."""
        return {found.name: found.size for found in self.listing() if not found.folder}

    def listing(self, sub: str = "") -> list[Found]:
        """Return the files and folders directly inside, or inside the folder `sub`; [] when there is none."""
        if self.local is not None:
            place = self.local / sub
            if not place.is_dir():
                return []
            with os.scandir(place) as entries:
                return [found for entry in entries if (found := _found(entry)) is not None]
        try:
            rows = self._patiently(lambda: self._fs.ls(self._path(sub), detail=True), sub)
        except FileNotFoundError:
            return []
        return [_remote(row) for row in rows if row["name"].rstrip("/") != self._path(sub)]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Read a file, or bytes ``start`` .. ``stop - 1`` of it: fewer where the file ends before.

        Raises:
            OSError: no such file, or one that cannot be read, naming it.
            ValueError: refused by the server, or out of patience: one sentence.
        """
        if self.local is not None:
            return _local_range(f"{self.local}/{name}", start, stop)
        if stop is not None and stop <= start:
            return b""
        return self._patiently(lambda: self._range(name, start, stop), name)

    def open(self, name: str, size: int | None = None) -> BinaryIO:
        """Open a file for reading and seeking; remote ones are read by ranges, each with this folder's patience.

        Args:
            name: the file.
            size: its bytes, where they are known; None asks for them.

        Raises:
            FileNotFoundError: no such file.
            ValueError: refused by the server, or out of patience; when it is read, too.
        """
        if self.local is not None:
            return open(self.local / name, "rb")
        if size is None:
            size = int(self._patiently(lambda: self._fs.info(self._path(name)), name)["size"])
        return cast(BinaryIO, RemoteFile(partial(self.read, name), size))

    @contextmanager
    def writing(self, name: str, large: bool = False) -> Iterator[BinaryIO]:
        """Open a file for writing; it is there, whole, after a clean exit, and not at all after another.

        Args:
            name: the file.
            large: many megabytes, which on a disk are written past the page cache.

        Raises:
            OSError: a full disk, naming the file.
            ValueError: refused by the server, or out of patience.
        """
        if self.local is not None:
            with written_aside(self.local / name) as aside:
                with DirectFile(aside) if large else open(aside, "wb") as file:
                    yield cast(BinaryIO, file)
            return
        buffer = io.BytesIO()
        yield buffer
        parts = _PARTS if self._signed is not None else {}
        self._patiently(lambda: self._fs.pipe_file(self._path(name), buffer.getvalue(), **parts), name)

    def write(self, name: str, data: bytes | str) -> None:
        """Write a file whole or not at all; text as UTF-8."""
        with self.writing(name) as file:
            file.write(data.encode() if isinstance(data, str) else data)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless there is one; say whether it was written. Of two writers at a time one wins."""
        try:
            if self.local is not None:
                with open(self.local / name, "xb") as file:
                    file.write(data)
            else:
                self._patiently(lambda: self._fs.pipe_file(self._path(name), data, mode="create"), name)
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        if self.local is not None:
            (self.local / name).unlink(missing_ok=True)
            return
        with suppress(FileNotFoundError):
            self._patiently(lambda: self._fs.rm_file(self._path(name)), name)

    def _range(self, name: str, start: int, stop: int | None) -> bytes:
        path = self._path(name)
        signed = self._signed if stop is not None else None
        if signed is not None and stop is not None and (found := signed.read(path, start, stop)) is not None:
            return found
        options = {"start": start, "end": stop} if start or stop is not None else {}
        try:
            data = bytes(self._fs.cat_file(path, **options))
        except OSError as error:
            if answer(error)[1] == 416:  # a range behind the end
                return b""
            raise
        if signed is not None:
            signed.missed()
        return data

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _patiently(self, call: Callable[[], T], name: str) -> T:
        """Call until it works; wait 0.5, 1, 2, 4, 8, 8, .. s (about) between tries."""
        deadline, wait = time.monotonic() + self.patience, 0.5
        while True:
            try:
                return call()
            except Exception as error:  # each file system has errors of its own
                raise_if_permanent(error, self.name(name))
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ValueError(
                        f"{self.name(name)}: no answer for {self.patience:.0f} s ({short(error)}); "
                        "check the network, the endpoint (AWS_ENDPOINT_URL) and the server, then start again"
                    ) from None
                pause = min(wait * random.uniform(0.75, 1.25), left)
                log.warning(
                    "%s: %s; trying again in %.1f s, for %.0f s yet",
                    self.name(name),
                    short(error),
                    pause,
                    left,
                )
                time.sleep(pause)
                wait = min(2 * wait, 8.0)


def place_and_name(path: str) -> tuple[Folder, str]:
    """Split a path or URL of a file into its folder and its name.

    Raises:
        ValueError: a URL of a bucket or a path of a folder, where a file is needed.
    """
    head, mark, rest = path.rpartition("://")
    parent, slash, file = rest.rpartition("/")
    if not file or (mark and not slash):
        raise ValueError(f"{path!r} names no file: give the path or URL of a file")
    return Folder(f"{head}{mark}{parent or slash}" if mark else parent or slash or "."), file


def _url(text: str) -> str:
    """Return a path or URL without slashes at its end, the kind in small letters.

    Raises:
        ValueError: it names nothing.
    """
    kind, mark, rest = text.rpartition("://")
    if not text:
        raise ValueError("an empty path: give a folder or a URL (is a shell variable unset?)")
    if not mark:
        return text.rstrip("/") or "/"
    kind = kind.lower()
    if kind == "file" and rest.startswith("/"):
        return f"file://{rest.rstrip('/') or '/'}"
    if not rest.strip("/") or (kind in _S3_KINDS and rest.startswith("/")):
        raise ValueError(f"{text}: a URL needs a bucket or a folder behind '://', such as s3://bucket/tiles")
    return f"{kind}://{rest.rstrip('/')}"


def _local_range(path: str, start: int, stop: int | None) -> bytes:
    """Read a piece of a file on a disk; an error names the file, whatever the system says."""
    try:
        with open(path, "rb", buffering=0) as file:
            if start == 0 and stop is None:
                return file.readall()
            file.seek(start)
            return file.readall() if stop is None else file.read(stop - start)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def _found(entry: os.DirEntry[str]) -> Found | None:
    try:
        told = entry.stat()
    except FileNotFoundError:  # a link to nowhere, or a file removed just now
        return None
    return Found(entry.name, told.st_size, str(told.st_mtime_ns), stat.S_ISDIR(told.st_mode))


def _remote(row: Mapping[str, Any]) -> Found:
    marks = (row.get(key) for key in ("ETag", "etag", "LastModified", "mtime", "created"))
    changed = next((str(mark) for mark in marks if mark), "")
    name = row["name"].rstrip("/").rpartition("/")[2]
    return Found(name, int(row["size"] or 0), changed, row["type"] == "directory")
