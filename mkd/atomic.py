"""Files that are whole or not there: written aside, synced, renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """Yield a path beside ``path``; at a clean exit it is synced and takes the place of ``path``.

    Raises:
        OSError: the file cannot be written (disk full, say), naming it; the file that was there before stays whole.
    """
    path = Path(path)
    aside = path.parent / f".tmp-{path.name}"  # one name: what a killed writer left is overwritten
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise OSError(
            f"{path}: cannot be written ({error.strerror or error}); fix that and start again"
        ) from None
    finally:
        with suppress(OSError):
            aside.unlink()
    _sync_folder(path.parent)


def check_writable(path: str | Path) -> None:
    """Refuse a file that could not be written, before the work for it is done; makes its folder.

    Raises:
        OSError: it is a folder, or no file can be made in the folder that it lies in, naming ``path``.
    """
    path = Path(path)
    if path.is_dir():
        raise OSError(f"{path}: cannot be written (it is a folder); remove that, or give another path")
    trial = path.parent / f".tmp-trial-{os.getpid()}-{path.name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        trial.touch()
    except OSError as error:
        raise OSError(
            f"{path}: cannot be written ({error.strerror or error}); fix that, or give another path"
        ) from None
    finally:
        with suppress(OSError):
            trial.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text whole or not at all."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def append_line(path: str | Path, line: str) -> None:
    """Append one line of UTF-8 text.

    Raises:
        OSError: the line cannot be written, naming the file.
    """
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise OSError(
            f"{path}: cannot be written ({error.strerror or error}); fix that and start again"
        ) from None


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
