"""GeoTIFF reading and writing by windows, in constant memory; small TIFFs in memory (rasterio is known here only)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import rasterio
import rasterio.windows
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from mkd.atomic import written_aside
from mkd.geo.grid import Window
from mkd.geo.missing import valid_pixels
from mkd.geo.raster_info import Transform, info_of
from mkd.geo.remote_file_bridge import Opener, guarded

CACHE_MIB = 256  # of decoded blocks, a process


class DamagedRaster(ValueError):
    """A raster, or a part of one, that is there and cannot be decoded."""


class _Abandoned(Exception):
    """A raster that is not put in place, because the caller failed."""


class RasterReader:
    """An open raster of any size, read window by window; use it in a `with` statement."""

    def __init__(self, path: str | os.PathLike[str], opener: Opener | None = None) -> None:
        """Open a raster.

        Args:
            path: a GeoTIFF, or any image GDAL reads.
            opener: how to reach a file that is not on a disk: takes the name of the raster or of a file beside it
                (such as a mask), without its folder; raises FileNotFoundError where there is none.

        Raises:
            DamagedRaster: not a raster.
            ValueError: no such file.
        """
        self.path, self._errors = str(path), list[Exception]()
        if opener is None and not Path(self.path).is_file():
            raise ValueError(f"no raster at {self.path}: give the path of a GeoTIFF")
        with self._reading():
            if opener is None:
                self._data = rasterio.open(self.path)
            else:
                name = self.path.rpartition("/")[2]
                self._data = rasterio.open(name, opener=guarded(opener, self._errors))
            self.info = info_of(self._data)

    def __enter__(self) -> RasterReader:
        """Return the reader itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._data.close()

    def read(self, window: Window, bands: Sequence[int] | None = None) -> NDArray[Any]:
        """Read the pixels of a window.

        Args:
            window: inside the raster, pixels.
            bands: 1-based band numbers as GDAL counts; None = all.

        Returns:
            (H, W, bands) in the file's type.

        Raises:
            DamagedRaster: these pixels cannot be decoded.
            ValueError: a window or band outside the raster, or a place that does not answer.
        """
        numbers = list(bands) if bands is not None else list(range(1, self.info.bands + 1))
        if any(not 1 <= band <= self.info.bands for band in numbers):
            raise ValueError(f"{self.path} has bands 1..{self.info.bands}, asked for {numbers}")
        place = self._place(window)
        with self._reading():
            pixels: NDArray[Any] = self._data.read(numbers, window=place)
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))

    def valid(self, window: Window, bands: Sequence[int] | None = None) -> NDArray[np.bool_]:
        """Return which pixels of a window hold data, by the file's no-data value, alpha band or mask.

        Args:
            window: inside the raster, pixels.
            bands: the bands in use as data, which are never a mask; None = all but alpha.

        Returns:
            (H, W) bool; all True when the file marks nothing as missing.

        Raises:
            DamagedRaster: these pixels cannot be decoded.
            ValueError: a window outside the raster, or a place that does not answer.
        """
        place = self._place(window)
        with self._reading():
            return valid_pixels(self._data, place, self.info.alpha, bands)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Raise an error of the opener as it is: GDAL would call the raster damaged."""
        try:
            with _translated(self.path, "read"):
                yield
        except DamagedRaster:
            if self._errors:
                raise self._errors[0] from None
            raise

    def _place(self, window: Window) -> rasterio.windows.Window:
        row, col, height, width = window
        inside = row >= 0 and col >= 0 and height > 0 and width > 0
        if not inside or row + height > self.info.height or col + width > self.info.width:
            raise ValueError(
                f"{tuple(window)} is outside {self.path} ({self.info.height} x {self.info.width} pixels)"
            )
        return rasterio.windows.Window(col, row, width, height)


class RasterWriter:
    """A GeoTIFF written window by window (tiles of 256, deflate), there only once it is complete."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        height: int,
        width: int,
        count: int,
        dtype: str,
        *,
        crs: str | None = None,
        transform: Transform | None = None,
        colormap: Mapping[int, Sequence[int]] | None = None,
        nodata: float | None = None,
    ) -> None:
        """Create the file aside; leaving the `with` statement without an error puts it at `path`.

        Args:
            path: where the raster will be; its folder must exist.
            height: rows, pixels.
            width: columns, pixels.
            count: bands, >= 1.
            dtype: numpy name of the type, such as "uint8".
            crs: WKT or "EPSG:n", or None.
            transform: (a, b, c, d, e, f), see `RasterInfo`, or None.
            colormap: (r, g, b) of each value of band 1; uint8 files of 1 or 2 bands only (a limit of TIFF).
            nodata: value of missing pixels, or None.

        Raises:
            ValueError: a colour table where TIFF allows none, or a place that cannot be written.
        """
        if colormap is not None and (count > 2 or dtype != "uint8"):
            raise ValueError(
                f"a colour table needs uint8 and 1 or 2 bands, not {dtype} and {count}: leave it out"
            )
        self.path = Path(path)
        self._count = count
        if not self.path.parent.is_dir():
            raise ValueError(f"cannot write the raster {self.path}: its folder does not exist, create it")
        profile: dict[str, Any] = {"driver": "GTiff", "tiled": True, "blockxsize": 256, "blockysize": 256}
        profile |= {"compress": "deflate", "BIGTIFF": "IF_SAFER", "nodata": nodata, "crs": crs}
        if transform is not None:
            profile["transform"] = rasterio.Affine(*transform)
        with ExitStack() as stack, _translated(str(self.path), "write"):
            self._aside = stack.enter_context(written_aside(self.path))
            self._data = rasterio.open(
                self._aside, "w", height=height, width=width, count=count, dtype=dtype, **profile
            )
            if colormap is not None:
                self._data.write_colormap(1, {value: tuple(rgb) for value, rgb in colormap.items()})
                if count == 2:  # else GDAL takes band 2 for alpha, and low values for holes
                    self._data.colorinterp = [ColorInterp.palette, ColorInterp.undefined]
            self._stack = stack.pop_all()  # the file aside is left or put in place by __exit__

    def __enter__(self) -> RasterWriter:
        """Return the writer itself."""
        return self

    def write(self, window: Window, array: NDArray[Any]) -> None:
        """Write the pixels of a window.

        Args:
            window: inside the raster, pixels.
            array: (H, W) for one band, else (H, W, count), in the file's type.

        Raises:
            ValueError: an array of another shape, or a disk that takes no more.
        """
        pixels = array[..., None] if array.ndim == 2 else array
        if pixels.shape != (window.height, window.width, self._count):
            raise ValueError(
                f"{self.path}: window {tuple(window)} takes ({window.height}, {window.width}, {self._count}) "
                f"values, found {array.shape}"
            )
        place = rasterio.windows.Window(window.col, window.row, window.width, window.height)
        with _translated(str(self.path), "write"):
            self._data.write(pixels.transpose(2, 0, 1), window=place)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the finished file in place, or remove it after an error."""
        with suppress(_Abandoned), self._stack, _translated(str(self.path), "write"):
            self._data.close()
            if kind is not None:
                raise _Abandoned  # the file aside goes, and the caller's own error stays as it is
            self._read_back()

    def _read_back(self) -> None:
        """Decode the whole file once: GDAL keeps silent about a disk that fills up while it closes."""
        try:
            with rasterio.open(self._aside) as data:
                for _, block in data.block_windows(1):
                    data.read(window=block)
        except RasterioError as error:
            raise OSError(f"it is damaged after writing, is the disk full? ({error})") from error


def encode_tiff(pixels: NDArray[Any]) -> bytes:
    """Encode pixels as a TIFF in memory, without loss (deflate), the same bytes each time.

    Args:
        pixels: (H, W, C) uint8, uint16, int16 or float32, any number of bands.

    Returns:
        A TIFF file.
    """
    height, width, count = pixels.shape
    profile = {"driver": "GTiff", "compress": "deflate", "predictor": 2, "interleave": "pixel"}
    # UNSPECIFIED, or GDAL would take a fourth band for alpha.
    profile |= {"photometric": "MINISBLACK", "alpha": "UNSPECIFIED"}
    with _translated("in memory", "write"), MemoryFile() as file:
        size = {"height": height, "width": width, "count": count, "blockysize": height}
        with file.open(dtype=str(pixels.dtype), **size, **profile) as data:
            data.write(pixels.transpose(2, 0, 1))
        return bytes(file.getbuffer())


def decode_tiff(data: bytes) -> NDArray[Any]:
    """Decode a TIFF in memory.

    Args:
        data: a whole file.

    Returns:
        (H, W, C) in the file's type.

    Raises:
        DamagedRaster: not a whole TIFF.
    """
    if not data:  # rasterio would make a new file of it
        raise DamagedRaster("cannot read the raster in memory (it is empty): copy it again")
    with _translated("in memory", "read"), MemoryFile(data) as file, file.open(driver="GTiff") as raster:
        pixels: NDArray[Any] = raster.read()
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


@contextmanager
def _translated(path: str, verb: str) -> Iterator[None]:
    """Turn rasterio's errors into one sentence with the path; a file without georeference is no warning."""
    try:
        # The Env keeps GDAL's own words off stderr; its cache would else take 5 % of the memory.
        with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=CACHE_MIB):
            for kind in (NotGeoreferencedWarning, NodataShadowWarning):
                warnings.simplefilter("ignore", kind)
            yield
    except (RasterioError, OSError) as error:
        if verb != "read":
            raise ValueError(f"cannot write the raster {path}: {_first(error)}") from error
        if "not recognized as being in a supported file format" in str(error):
            raise DamagedRaster(f"{path} is no raster that GDAL can read: give a GeoTIFF") from error
        raise DamagedRaster(
            f"cannot read the raster {path} ({_first(error)}): is it truncated? copy it again"
        ) from error


def _first(error: BaseException) -> str:
    """Return the first line of GDAL's own message: rasterio's error may only point to it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
