"""Rasters of any size shrunk to page size, read in bands of rows: memory does not grow with their height."""

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mkd.geo.band_choice import BandChoice, choose_bands, shown_bands
from mkd.geo.grid import Window
from mkd.geo.palette import screen_values
from mkd.geo.raster import RasterReader
from mkd.labels import NODATA
from mkd.report.content import Bytes, MapView


def map_view(
    raster: str | Path | RasterReader | None, map: str | Path, max_side: int = 900, caption: str = ""
) -> MapView:
    """Shrink a map, and the raster it was made from, for the page.

    Colours and confidence are means over the pixels with data in each square of s x s pixels; classes are the
    class in the square's middle (ids have no mean, and the commonest class would erase thin roads).
    s = ceil(longest side / max_side).

    Args:
        raster: the orthomosaic, or None; an open reader is left open. Its bands named red, green and blue are shown,
            else the first three that are data; other types than uint8 are stretched, see `screen_values`.
        map: the two-band GeoTIFF that `predict_map` wrote.
        max_side: longest side of the result, pixels, >= 1.
        caption: a sentence for the page.

    Returns:
        The views, all of one size.

    Raises:
        ValueError: a file that cannot be read, a map that does not have two bands, a raster of another size.
    """
    with RasterReader(map) as reader:
        size = (reader.info.height, reader.info.width)
        if reader.info.bands != 2:
            raise ValueError(f"{map} has {reader.info.bands} band(s), a map has 2 (class, confidence)")
        step = math.ceil(max(size) / max_side)
        means, known, middles = _shrunk(reader, BandChoice((1, 2), reader.info.dtype), step)
    confidence = np.where(known, np.minimum(np.rint(means[..., 1]), NODATA - 1), NODATA).astype(np.uint8)
    if raster is None:
        return MapView(None, middles[..., 0], confidence, caption)
    with nullcontext(raster) if isinstance(raster, RasterReader) else RasterReader(raster) as reader:
        if (reader.info.height, reader.info.width) != size:
            raise ValueError(
                f"{reader.path} has {reader.info.height} x {reader.info.width} pixels, its map {map} has "
                f"{size[0]} x {size[1]}: give the raster that the map was made from"
            )
        data = choose_bands(reader.path, reader.info, None, "bands=")
        names = [reader.info.names[n - 1] for n in data.numbers] if data.table is None else []
        shown = [data.numbers[n] for n in shown_bands(names, len(data.numbers))]
        choice = replace(data, numbers=tuple(shown))
        means, known, _ = _shrunk(reader, choice, step)
        image = screen_values(means, known, eight_bits=choice.dtype == "uint8")
    image[~known] = 255
    return MapView(image, middles[..., 0], confidence, caption)


def _shrunk(
    reader: RasterReader, choice: BandChoice, step: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_], Bytes]:
    """Return means over the squares' valid pixels, where there are any, and each square's middle pixel."""
    height, width = reader.info.height, reader.info.width
    rows = step * max(1, 256 // step)  # whole squares, and about one row of the file's blocks
    windows = (Window(top, 0, min(rows, height - top), width) for top in range(0, height, rows))
    parts = [_squares(reader, window, choice, step) for window in windows]
    means, known, middles = (np.concatenate(group) for group in zip(*parts, strict=True))
    return means, known, middles


def _squares(
    reader: RasterReader, window: Window, choice: BandChoice, step: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_], Bytes]:
    pixels, valid = choice.pixels(reader, window), choice.valid(reader, window)[..., None]
    sums: Any = np.int64
    if pixels.dtype.kind == "f":
        valid = valid & np.isfinite(pixels).all(axis=2, keepdims=True)
        pixels, sums = np.where(valid, pixels, 0).astype(np.float64), np.float64
    rows, columns = np.arange(0, window.height, step), np.arange(0, window.width, step)

    def summed(values: NDArray[Any]) -> NDArray[Any]:
        down = np.add.reduceat(values, rows, axis=0, dtype=sums)
        total: NDArray[Any] = np.add.reduceat(down, columns, axis=1)
        return total

    count = summed(valid)
    means = summed(pixels * valid) / np.maximum(count, 1)
    middle_row = np.minimum(rows + step // 2, window.height - 1)
    middle_column = np.minimum(columns + step // 2, window.width - 1)
    return means, count[..., 0] > 0, pixels[np.ix_(middle_row, middle_column)]
