"""GeoTIFF reading and writing by windows, in constant memory; small TIFFs in memory (rasterio is known here only)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.windows
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from mkd.atomic import written_aside
from mkd.geo.grid import Window
from mkd.geo.missing import valid_pixels
from mkd.geo.picture_header import oriented, stored_window, turn_upright
from mkd.geo.place.control_points import ControlPoints
from mkd.geo.raster_errors import CACHE_MIB as CACHE_MIB
from mkd.geo.raster_errors import DamagedRaster as DamagedRaster
from mkd.geo.raster_errors import translated
from mkd.geo.raster_info import RasterInfo, Transform, info_of, warped
from mkd.geo.raster_safety import RasterLimits, block_fault, check_names
from mkd.geo.remote_file_bridge import Opener, guarded


class _Abandoned(Exception):
    """A raster that is not put in place, because the caller failed."""


class RasterReader:
    """An open raster of any size, read window by window, upright by its EXIF orientation; for a `with` statement."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        opener: Opener | None = None,
        limits: RasterLimits = RasterLimits(),  # noqa: B008 - frozen
    ) -> None:
        """Open a raster.

        Args:
            path: a GeoTIFF, or any image GDAL reads.
            opener: how to reach a file that is not on a disk: takes the name of the raster or of a file beside it
                (such as a mask), without its folder; raises FileNotFoundError where there is none.
            limits: what is believed of it.

        Raises:
            DamagedRaster: not a raster.
            ValueError: no such file, one that names files it may not name, blocks that need too much memory, or a place
                on Earth beside an EXIF orientation that turns the picture.
        """
        self.path, self._errors = str(path), list[Exception]()
        if opener is None and not Path(self.path).is_file():
            raise ValueError(f"no raster at {self.path}: give the path of a GeoTIFF")
        check_names(self.path, opener, limits)
        with self._reading():
            if opener is None:
                self._data = rasterio.open(self.path)
            else:
                name = self.path.rpartition("/")[2]
                self._data = rasterio.open(name, opener=guarded(opener, self._errors))
            with open(self.path, "rb") if opener is None else opener(self.path.rpartition("/")[2]) as file:
                self.orientation, self.info = oriented(self.path, file, info_of(self._data))
        if fault := block_fault(self._data, limits):
            self.close()
            raise ValueError(f"{self.path}: {fault}")

    def __enter__(self) -> RasterReader:
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._data.close()

    def warp_onto(self, grid: RasterInfo) -> None:
        """Read the raster on another grid from here on: each pixel the nearest of the file, none outside it.

        Args:
            grid: with a CRS and a transform, as the raster itself must have.
        """
        with self._reading():
            self._data = warped(self._data, grid)
            self.info = info_of(self._data)

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
        return turn_upright(pixels.transpose(1, 2, 0), self.orientation)

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
            mask = valid_pixels(self._data, place, self.info.alpha, bands)
        return turn_upright(mask, self.orientation)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Raise an error of the opener as it is: GDAL would call the raster damaged."""
        try:
            with translated(self.path, "read"):
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
        stored = stored_window(window, self.orientation, self._data.height, self._data.width)
        return rasterio.windows.Window(stored.col, stored.row, stored.width, stored.height)


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
        control: ControlPoints | None = None,
        colormap: Mapping[int, Sequence[int]] | None = None,
        nodata: float | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Create the file aside; leaving the `with` statement without an error puts it at `path`.

        Args:
            path: where the raster will be; its folder must exist.
            height: rows, pixels; width: columns, pixels; count: bands, >= 1.
            dtype: numpy name of the type, such as "uint8".
            crs: WKT or "EPSG:n", or None.
            transform: (a, b, c, d, e, f), see `RasterInfo`, or None.
            control: control points or RPCs of a raster without a transform, or None.
            colormap: (r, g, b) of each value of band 1; uint8 files of 1 or 2 bands only (a limit of TIFF).
            nodata: value of missing pixels, or None.
            tags: texts by name for its header.

        Raises:
            ValueError: a colour table where TIFF allows none, or a place that cannot be written.
        """
        if colormap is not None and (count > 2 or dtype != "uint8"):
            raise ValueError(
                f"a colour table needs uint8 and 1 or 2 bands, not {dtype} and {count}: leave it out"
            )
        self.path, self._count = Path(path), count
        if not self.path.parent.is_dir():
            raise ValueError(f"cannot write the raster {self.path}: its folder does not exist, create it")
        profile: dict[str, Any] = {"driver": "GTiff", "tiled": True, "blockxsize": 256, "blockysize": 256}
        profile |= {"compress": "deflate", "BIGTIFF": "IF_SAFER", "nodata": nodata, "crs": crs}
        if transform is not None:
            profile["transform"] = rasterio.Affine(*transform)
        with ExitStack() as stack, translated(str(self.path), "write"):
            self._aside = stack.enter_context(written_aside(self.path))
            self._data = rasterio.open(
                self._aside, "w", height=height, width=width, count=count, dtype=dtype, **profile
            )
            if colormap is not None:
                self._data.write_colormap(1, {value: tuple(rgb) for value, rgb in colormap.items()})
                if count == 2:  # else GDAL takes band 2 for alpha, and low values for holes
                    self._data.colorinterp = [ColorInterp.palette, ColorInterp.undefined]
            if control is not None:
                control.write(self._data)
            if tags:
                self._data.update_tags(**tags)
            self._stack = stack.pop_all()  # the file aside is left or put in place by __exit__

    def __enter__(self) -> RasterWriter:
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
        with translated(str(self.path), "write"):
            self._data.write(pixels.transpose(2, 0, 1), window=place)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Put the finished file in place, or remove it after an error."""
        with suppress(_Abandoned), self._stack, translated(str(self.path), "write"):
            self._data.close()
            if kind is not None:
                raise _Abandoned  # the file aside goes, and the caller's own error stays as it is
            read_back(self._aside)


def read_back(path: Path) -> None:
    """Decode a whole file once: GDAL keeps silent about a disk that fills up while it closes.

    Raises:
        OSError: it cannot be decoded.
    """
    try:
        with rasterio.open(path) as data:
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
    with translated("in memory", "write"), MemoryFile() as file:
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
    with translated("in memory", "read"), MemoryFile(data) as file, file.open(driver="GTiff") as raster:
        pixels: NDArray[Any] = raster.read()
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))
