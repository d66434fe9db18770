"""Files and listings of a local folder; what is no file is told, and never waited for."""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}

_PIECE = 1 << 24  # bytes that are read at once


class FileInfo(NamedTuple):
    """A file or folder of a listing.

    Attributes:
        name: of the file, without its folder.
        size: bytes.
        version: ETag or time of change: another text after each write.
        is_folder: a folder, not a file.
        fault: "", or why it is neither a file nor a folder that can be read: a FIFO, a device, a loop of links.
        is_link: a link on a disk; the rest is of what it leads to.
    """

    name: str
    size: int
    version: str
    is_folder: bool
    fault: str = ""
    is_link: bool = False


def read_range(path: str, start: int, stop: int | None) -> bytes:
    """Read a range of a local file; an error names the file, which the system's does not always."""
    try:
        # A FIFO in a data set would be waited for without end; pipes that the shell makes lie in /dev.
        if not stat.S_ISREG(os.stat(path).st_mode) and not path.startswith(("/dev/", "/proc/")):
            raise OSError(errno.EINVAL if not os.path.isdir(path) else errno.EISDIR, "not a file")
        with open(path, "rb", buffering=0) as file:
            if start == 0 and stop is None:
                return file.readall()
            if start:  # a pipe cannot seek
                file.seek(start)
            if stop is None:
                return file.readall()
            # In pieces: a pipe gives no more, and a read takes the memory that it is asked for, whatever there is.
            data = file.read(min(stop - start, _PIECE))
            while len(data) < stop - start and (more := file.read(min(stop - start - len(data), _PIECE))):
                data += more
            return data
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def link_target(path: str | os.PathLike[str], root: str | os.PathLike[str]) -> str:
    """Return where links lead from a file: its real path from the folder that holds `root`; "" without a link.

    A link that is turned to another file of equal size and time is another file. Links above `root` do not count, so
    that inputs which are moved, or mounted elsewhere, with all that they link to stay the same.

    Args:
        path: a file.
        root: the folder that a person named.
    """
    named = os.path.abspath(root)
    base = os.path.realpath(os.path.dirname(named))
    place = os.path.join(base, os.path.relpath(os.path.abspath(path), os.path.dirname(named)))
    real = os.path.realpath(path)
    return "" if real == os.path.normpath(place) else os.path.relpath(real, base)


def describe(entry: os.DirEntry[str]) -> FileInfo | None:
    """Describe an entry of a folder; None for a link to nowhere."""
    try:
        status = entry.stat()
    except FileNotFoundError:  # a link to nowhere, or a file removed just now
        return None
    except OSError as error:  # such as a link to itself; whoever needs the file says so
        return FileInfo(entry.name, 0, "", False, f"cannot be read ({error.strerror})")
    is_folder, kind = stat.S_ISDIR(status.st_mode), stat.S_IFMT(status.st_mode)
    fault = "" if is_folder or kind == stat.S_IFREG else f"is {_KINDS.get(kind, 'a device')}, not a file"
    return FileInfo(entry.name, status.st_size, str(status.st_mtime_ns), is_folder, fault, entry.is_symlink())
