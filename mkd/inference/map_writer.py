"""Land-cover maps of finished bands of rows, in memory that does not grow with height.

Band 1 = argmax_c p_c, band 2 = min(254, round(255 max_c p_c)), p the blend of `mean_softmax` over windows. Confidence
stops at 254, as 255 marks missing data in both bands.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mkd.geo.class_map import ClassMapWriter, Legend
from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader
from mkd.geo.raster_info import RasterInfo
from mkd.inference.band_predictor import MapBand, PredictionGrid
from mkd.labels import NODATA, Colour

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MapSummary:
    """What a map holds.

    `class_pixels` counts by class id; `windows` were predicted, `empty_windows` held no data and were
    skipped; `mean_confidence` is the mean of the largest probability over pixels with data (None: no pixel).
    """

    height: int
    width: int
    windows: int
    empty_windows: int
    class_pixels: tuple[int, ...]
    nodata_pixels: int
    mean_confidence: float | None


def write_map(output: Path, legend: Legend, reader: RasterReader, bands: Iterable[MapBand]) -> MapSummary:
    """Write the finished bands of a raster, all of them and from top to bottom, as its map.

    Args:
        output: cloud-optimised GeoTIFF, uint8: class id with colour table, confidence; CRS and transform, or control
            points, of the raster; there once whole, with class names in ``OUTPUT.aux.xml``.
        legend: names, colours and tags.
        reader: the raster.
        bands: of `BandPredictor`, or read from files; memory holds one at a time.

    Raises:
        ValueError: a place that cannot be written.
    """
    info = reader.info
    class_pixels, confidence, windows, empty = np.zeros(len(legend.names), np.int64), 0.0, 0, 0
    with ClassMapWriter(output, info.height, info.width, legend, **_place(info, reader.path)) as writer:
        for band in bands:
            writer.write(Window(band.row, 0, len(band.pixels), info.width), band.pixels)
            class_pixels += band.class_pixels
            confidence += band.confidence
            windows, empty = windows + band.windows, empty + band.empty_windows
    pixels = int(class_pixels.sum())
    return MapSummary(
        height=info.height,
        width=info.width,
        windows=windows,
        empty_windows=empty,
        class_pixels=tuple(int(n) for n in class_pixels),
        nodata_pixels=info.height * info.width - pixels,
        mean_confidence=confidence / pixels if pixels else None,
    )


def _place(info: RasterInfo, input: str | Path) -> dict[str, Any]:
    """Return the place of a raster on Earth, for a map on its grid; warn when it has none."""
    if info.transform is None and info.control is None:
        _log.warning(
            "note: %s has no place on Earth (transform, control points, RPCs), so its map has none", input
        )
    return {"crs": info.crs, "transform": info.transform, "control": info.control}


def check_map(
    palette: Sequence[Colour], input: str | Path | RasterReader, output: Path, grid: PredictionGrid
) -> None:
    """Refuse a grid, a number of classes or a place that no map can be made with.

    Args:
        palette: one (r, g, b) a class.
        input: the raster.
        output: the map.
        grid: of windows.

    Raises:
        ValueError: one sentence.
    """
    (tile, overlap, batch), path = grid, Path(input.path if isinstance(input, RasterReader) else input)
    if tile < 1 or batch < 1:
        raise ValueError(f"tile is {tile} and batch is {batch}: both must be at least 1")
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap is {overlap}: it must be at least 0 and less than tile, which is {tile}")
    if not 1 <= len(palette) <= NODATA:
        raise ValueError(f"the palette has {len(palette)} colours: a map holds 1 to {NODATA} classes")
    if path.resolve() == output.resolve():
        raise ValueError(f"output is the input, {path}: give the map another name")
    if not output.absolute().parent.is_dir():
        raise ValueError(f"the folder of output={output} does not exist: create it, or name another")
