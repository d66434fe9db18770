"""A folder of files on a disk or behind any fsspec URL: ranges, atomic writes, and retries of errors that pass."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from mkd.atomic import written_aside
from mkd.storage.direct_io import DirectFile
from mkd.storage.local_files import FileInfo as FileInfo
from mkd.storage.local_files import describe, read_range
from mkd.storage.remote_file import RemoteFile
from mkd.storage.retry_policy import call_with_retries, error_code_and_status, first_line

PATIENCE = 300.0  # seconds for which an error that passes is tried again
# botocore's own retries would be silent, and longer than some patience.
_BOTO_CONFIG = {"retries": {"total_max_attempts": 1}, "signature_version": "s3v4"}
# A cached listing from before a write would be wrong.
_S3_OPTIONS: dict[str, Any] = {"use_listings_cache": False, "config_kwargs": _BOTO_CONFIG}
_S3_SCHEMES = ("s3", "s3a")
# s3fs copies the parts that it is sending: by default a whole shard at once.
_UPLOAD_PARTS = {"chunksize": 16 << 20, "max_concurrency": 4}


T = TypeVar("T")


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
        self.url, self.patience = _normalise(str(url)), patience
        self.local: Path | None = None
        self._elsewhere: dict[str, Folder] = {}
        if "://" not in self.url or self.url.startswith("file://"):
            self.local = Path(self.url.removeprefix("file://"))
            return
        import fsspec  # 0.1 s, which processes that read local files need not wait

        from mkd.storage.presigned import PresignedRanges

        scheme = self.url.partition("://")[0]
        options = _S3_OPTIONS if scheme in _S3_SCHEMES else {}
        try:
            self._fs, root = fsspec.url_to_fs(self.url, **options)
        except (ValueError, ImportError) as error:
            raise ValueError(
                f"{url}: files of kind {scheme!r} cannot be reached ({first_line(error)}); give a path, an s3:// "
                "URL, or one that an installed fsspec package knows"
            ) from None
        self._root = root.rstrip("/")
        self._presigned = PresignedRanges(self._fs) if options else None

    def __str__(self) -> str:
        """Return the URL or path."""
        return self.url

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as arguments: each process makes its own connections."""
        return Folder, (self.url, self.patience)

    def url_of(self, name: str) -> str:
        """Return the full URL or path of a file, for messages and other readers."""
        return name if self.url == "." else f"{self.url}/{name}"

    def child(self, name: str) -> Folder:
        """Return a folder inside this one."""
        return Folder(self.url_of(name), self.patience)

    def elsewhere(self, url: str) -> Folder:
        """Return another folder, of the same patience: the same one each time, as it holds connections."""
        if url not in self._elsewhere:  # two threads may both make one; all then use the first that was set
            self._elsewhere.setdefault(url, Folder(url, self.patience))
        return self._elsewhere[url]

    def exists(self, name: str) -> bool:
        """Say whether a file exists."""
        if self.local is not None:
            return (self.local / name).is_file()
        try:  # not isfile(), which takes every error for a missing file
            return bool(self._with_retries(lambda: self._fs.info(self._path(name)), name)["type"] == "file")
        except FileNotFoundError:
            return False

    def sizes(self) -> dict[str, int]:
        """Return name and size in bytes of each file directly inside; {} when there is no folder."""
        return {info.name: info.size for info in self.listing() if not info.is_folder and not info.fault}

    def listing(self, sub: str = "") -> list[FileInfo]:
        """Return the files and folders directly inside, or inside the folder `sub`; [] when there is none."""
        if self.local is not None:
            folder = self.local / sub
            if not folder.is_dir():
                return []
            with os.scandir(folder) as entries:
                return [info for entry in entries if (info := describe(entry)) is not None]
        try:
            rows = self._with_retries(lambda: self._fs.ls(self._path(sub), detail=True), sub)
        except FileNotFoundError:
            return []
        return [_remote_info(row) for row in rows if row["name"].rstrip("/") != self._path(sub)]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Read a file, or bytes ``start`` .. ``stop - 1`` of it: fewer where the file ends before.

        Raises:
            OSError: no such file, or one that cannot be read, naming it.
            ValueError: refused by the server, or out of patience: one sentence.
        """
        if self.local is not None:
            return read_range(f"{self.local}/{name}", start, stop)
        if stop is not None and stop <= start:
            return b""
        return self._with_retries(lambda: self._read_range(name, start, stop), name)

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
            size = int(self._with_retries(lambda: self._fs.info(self._path(name)), name)["size"])
        return cast(BinaryIO, RemoteFile(partial(self.read, name), size))

    def download(self, name: str, path: Path) -> None:
        """Copy a whole file of a remote folder to a disk.

        Raises:
            OSError: no such file, or a full disk.
            ValueError: refused by the server, or out of patience.
        """
        self._with_retries(lambda: self._fs.get_file(self._path(name), str(path)), name)

    @contextmanager
    def writing(self, name: str, large: bool = False) -> Iterator[BinaryIO]:
        """Open a file for writing; it exists, whole, after a clean exit, and not at all after an error.

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
        parts = _UPLOAD_PARTS if self._presigned is not None else {}
        self._with_retries(lambda: self._fs.pipe_file(self._path(name), buffer.getvalue(), **parts), name)

    def write(self, name: str, data: bytes | str) -> None:
        """Write a file atomically; text as UTF-8."""
        with self.writing(name) as file:
            file.write(data.encode() if isinstance(data, str) else data)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists; say whether it was written. Of two concurrent writers one wins."""
        try:
            if self.local is not None:
                with open(self.local / name, "xb") as file:
                    file.write(data)
            else:
                self._with_retries(lambda: self._fs.pipe_file(self._path(name), data, mode="create"), name)
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        if self.local is not None:
            (self.local / name).unlink(missing_ok=True)
            return
        with suppress(FileNotFoundError):
            self._with_retries(lambda: self._fs.rm_file(self._path(name)), name)

    def _read_range(self, name: str, start: int, stop: int | None) -> bytes:
        """Read a range of a remote file by a signed URL where that works, else by fsspec."""
        path = self._path(name)
        presigned = self._presigned if stop is not None else None
        if presigned is not None and stop is not None:
            data = presigned.read(path, start, stop)
            if data is not None:
                return data
        options = {"start": start, "end": stop} if start or stop is not None else {}
        try:
            data = bytes(self._fs.cat_file(path, **options))
        except OSError as error:
            if error_code_and_status(error)[1] == 416:  # a range behind the end of the file
                return b""
            raise
        if presigned is not None:
            presigned.count_fallback()
        return data

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _with_retries(self, call: Callable[[], T], name: str) -> T:
        return call_with_retries(call, self.patience, self.url_of(name))


def split_url(path: str) -> tuple[Folder, str]:
    """Split a path or URL of a file into its folder and its name.

    Raises:
        ValueError: a URL of a bucket or a path of a folder, where a file is needed.
    """
    scheme, separator, rest = path.rpartition("://")
    parent, slash, file = rest.rpartition("/")
    if not file or (separator and not slash):
        raise ValueError(f"{path!r} names no file: give the path or URL of a file")
    folder = f"{scheme}{separator}{parent or slash}" if separator else parent or slash or "."
    return Folder(folder), file


def _normalise(text: str) -> str:
    """Return a path or URL without slashes at its end, the scheme in lower case.

    Raises:
        ValueError: it names nothing.
    """
    scheme, separator, rest = text.rpartition("://")
    if not text:
        raise ValueError("an empty path: give a folder or a URL (is a shell variable unset?)")
    if not separator:
        return text.rstrip("/") or "/"
    scheme = scheme.lower()
    if scheme == "file" and rest.startswith("/"):
        return f"file://{rest.rstrip('/') or '/'}"
    if not rest.strip("/") or (scheme in _S3_SCHEMES and rest.startswith("/")):
        raise ValueError(f"{text}: a URL needs a bucket or a folder behind '://', such as s3://bucket/tiles")
    return f"{scheme}://{rest.rstrip('/')}"


def _remote_info(row: Mapping[str, Any]) -> FileInfo:
    versions = (row.get(key) for key in ("ETag", "etag", "LastModified", "mtime", "created"))
    version = next((str(value) for value in versions if value), "")
    name = row["name"].rstrip("/").rpartition("/")[2]
    return FileInfo(name, int(row["size"] or 0), version, row["type"] == "directory")
