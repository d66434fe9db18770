"""Files that are not on a disk, for GDAL to read from."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import BinaryIO

Opener = Callable[[str], BinaryIO]


class _Guarded(io.RawIOBase):
    """A file whose errors are kept: raised inside GDAL they would be printed and lost."""

    def __init__(self, file: BinaryIO, errors: list[Exception]) -> None:
        self._file, self._errors = file, errors

    def read(self, size: int = -1) -> bytes:
        """Read; b"" after an error, which is kept for the caller of GDAL."""
        try:
            return self._file.read(size)
        except Exception as error:  # whatever the place of the file raises
            self._errors.append(error)
            return b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, and return it."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def guarded(opener: Opener, errors: list[Exception]) -> Callable[..., _Guarded]:
    """Adapt an opener to rasterio's, which asks for a mode too, and for a file "test" to try it out."""

    def opened(name: str, *_: object, **__: object) -> _Guarded:
        try:
            return _Guarded(opener(name), errors)
        except FileNotFoundError:
            raise
        except Exception as error:  # whatever the place of the file raises
            errors.append(error)
            raise FileNotFoundError(name) from error

    return opened
