"""GeoTIFF reading and writing by windows, in constant memory (the only module that knows rasterio)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import rasterio
import rasterio.windows
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from mkd.geo.grid import Window

_CACHE_MIB = 256

Transform = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class RasterInfo:
    """What a raster is: size in pixels, bands, type, place on Earth, no-data value and colour table.

    `crs` is WKT; `transform` is (a, b, c, d, e, f) with x = a col + b row + c, y = d col + e row + f; both
    are None where the file has none. `colormap` maps values of band 1 to (r, g, b, alpha).
    """

    height: int
    width: int
    bands: int
    dtype: str
    crs: str | None
    transform: Transform | None
    nodata: float | None
    colormap: dict[int, tuple[int, ...]] | None


class RasterReader:
    """An open raster of any size, read window by window; use it in a `with` statement."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a raster.

        Args:
            path: a GeoTIFF, or any image GDAL reads.

        Raises:
            ValueError: no such file, or not a raster.
        """
        self.path = str(path)
        if not Path(self.path).is_file():
            raise ValueError(f"no raster at {self.path}: give the path of a GeoTIFF")
        with _told(self.path, "read"):
            self._data = rasterio.open(self.path)
            self.info = _info(self._data)

    def __enter__(self) -> RasterReader:
        """Return the reader itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
            ValueError: a window or band outside the raster, or a damaged file.
        """
        numbers = list(bands) if bands is not None else list(range(1, self.info.bands + 1))
        if any(not 1 <= band <= self.info.bands for band in numbers):
            raise ValueError(f"{self.path} has bands 1..{self.info.bands}, asked for {numbers}")
        place = self._place(window)
        with _told(self.path, "read"):
            pixels: NDArray[Any] = self._data.read(numbers, window=place)
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))

    def valid(self, window: Window) -> NDArray[np.bool_]:
        """Say which pixels of a window hold data, by the file's no-data value, alpha band or mask.

        Args:
            window: inside the raster, pixels.

        Returns:
            (H, W) bool; all True when the file marks nothing as missing.

        Raises:
            ValueError: a window outside the raster, or a damaged file.
        """
        place = self._place(window)
        with _told(self.path, "read"):
            mask: NDArray[np.bool_] = self._data.dataset_mask(window=place) != 0
        return mask

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
        self._aside = self.path.with_name(f".tmp-{os.getpid()}-{self.path.name}")
        profile: dict[str, Any] = {"driver": "GTiff", "tiled": True, "blockxsize": 256, "blockysize": 256}
        profile |= {"compress": "deflate", "BIGTIFF": "IF_SAFER", "nodata": nodata, "crs": crs}
        if transform is not None:
            profile["transform"] = rasterio.Affine(*transform)
        with _told(str(self.path), "write"):
            self._data = rasterio.open(
                self._aside, "w", height=height, width=width, count=count, dtype=dtype, **profile
            )
            if colormap is not None:
                self._data.write_colormap(1, {value: tuple(rgb) for value, rgb in colormap.items()})
                if count == 2:  # else GDAL takes band 2 for alpha, and low values for holes
                    self._data.colorinterp = [ColorInterp.palette, ColorInterp.undefined]

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
        with _told(str(self.path), "write"):
            self._data.write(pixels.transpose(2, 0, 1), window=place)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the finished file in place, or remove it after an error."""
        try:
            with _told(str(self.path), "write"):
                self._data.close()
                if kind is None:
                    self._read_back()
            if kind is None:
                with open(self._aside, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(self._aside, self.path)
        finally:
            self._aside.unlink(missing_ok=True)

    def _read_back(self) -> None:
        """Decode the whole file once: GDAL keeps silent about a disk that fills up while it closes."""
        try:
            with rasterio.open(self._aside) as data:
                for _, block in data.block_windows(1):
                    data.read(window=block)
        except RasterioError as error:
            raise OSError(f"it is damaged after writing, is the disk full? ({error})") from error


@contextmanager
def _told(path: str, verb: str) -> Iterator[None]:
    """Turn rasterio's errors into one sentence with the path; files without a place on Earth are no news."""
    try:
        # The Env keeps GDAL's own words off stderr; its cache would else take 5 % of the memory.
        with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=_CACHE_MIB):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield
    except (RasterioError, OSError) as error:
        raise ValueError(f"cannot {verb} the raster {path}: {error}") from error


def _info(data: Any) -> RasterInfo:
    try:
        colormap: dict[int, tuple[int, ...]] | None = data.colormap(1)
    except ValueError:  # rasterio's way to say that there is none
        colormap = None
    return RasterInfo(
        height=int(data.height),
        width=int(data.width),
        bands=int(data.count),
        dtype=str(data.dtypes[0]),
        crs=data.crs.to_wkt() if data.crs else None,
        transform=None if data.transform.is_identity else tuple(data.transform)[:6],
        nodata=None if data.nodata is None else float(data.nodata),
        colormap=colormap,
    )


def grid_difference(a: RasterInfo, b: RasterInfo) -> str | None:
    """Say in which way two rasters do not lie pixel on pixel.

    A transform or CRS is compared only where both have one; transforms may differ by 1/1000 pixel.

    Args:
        a: one raster.
        b: the other.

    Returns:
        The first difference, such as "size 100 x 90 and 100 x 100", or None.
    """
    if (a.height, a.width) != (b.height, b.width):
        return f"size {a.height} x {a.width} and {b.height} x {b.width} pixels (height x width)"
    if a.transform is not None and b.transform is not None:
        pixel = max(abs(a.transform[0]), abs(a.transform[1]), abs(a.transform[3]), abs(a.transform[4]))
        scale = np.array([a.width, a.height, 1.0] * 2)  # how far an error reaches at the far corner
        if (np.abs(np.subtract(a.transform, b.transform)) * scale > pixel / 1000).any():
            return f"transform {a.transform} and {b.transform}"
    if a.crs is not None and b.crs is not None and CRS.from_wkt(a.crs) != CRS.from_wkt(b.crs):
        return f"CRS {a.crs[:60]}... and {b.crs[:60]}..."
    return None
