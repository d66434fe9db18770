"""Model and GeoTIFF to land-cover map, window by window, in memory that does not grow with height."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mkd.geo.class_map import ClassMapWriter, Legend
from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader
from mkd.geo.raster_info import RasterInfo
from mkd.inference.band_match import bands_for
from mkd.inference.band_predictor import BandPredictor, MapBand, PredictionGrid, WindowNetwork
from mkd.inference.window_progress import window_progress
from mkd.labels import NODATA, Colour
from mkd.pixel_scale import PLAIN, PixelScale

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


def predict_map(
    model: nn.Module,
    class_palette: Sequence[Colour],
    input: str | Path | RasterReader,
    output: str | Path,
    *,
    tile: int = 512,
    overlap: int = 128,
    batch: int = 4,
    bands: Sequence[int | str] | None = None,
    scale: PixelScale = PLAIN,
    names: Sequence[str] | None = None,
    tags: Mapping[str, str] | None = None,
    device: str | torch.device = "cpu",
    autocast: bool = False,
    tta: str = "none",
    temperature: float = 1.0,
    title: str = "map",
) -> MapSummary:
    """Write the land-cover map of a raster: argmax over classes of the blended window probabilities.

    p = blend of mean_softmax(model, window, tta); q = p at the temperature. Map: argmax_c p_c, round(255 max_c q_c).
    Confidence stops at 254, as 255 marks missing data in both bands. What is stored at missing pixels does not matter.

    Args:
        model: float32 (B, bands, H, W), see `scaled`, to logits (B, C, H, W); moved to `device`, put in eval mode.
        class_palette: one (r, g, b) a class, 0..255, at most 255 classes.
        input: raster of the model's bands and type, any size; pixels without data (by no-data value, alpha, mask,
            NaN) stay so in the map. An open reader is left open.
        output: cloud-optimised GeoTIFF, uint8: class id with colour table, confidence; CRS and transform, or control
            points, of the input; there once whole, with class names in ``OUTPUT.aux.xml``.
        tile: edge of a window, pixels, >= 1; smaller rasters are one window.
        overlap: least overlap of neighbouring windows, pixels, 0 <= overlap < tile.
        batch: windows a forward pass, >= 1.
        bands: numbers (from 1) or names of the bands to use as data; None = all but alpha.
        scale: what the model takes.
        names: class names, by id; None = class 0, class 1, ...
        tags: what the file says of itself, such as the model.
        device: where the model runs.
        autocast: bfloat16 for the forward pass; probabilities and their blend are float32 always.
        tta: views of each window whose probabilities are averaged, see `mkd.inference.symmetry`.
        temperature: of the confidence, see `mkd.metrics.temperature`; it changes no class.
        title: what the progress is called.

    Returns:
        Counts and mean confidence.

    Raises:
        ValueError: a raster of other bands or type, sizes that do not fit, other classes, logits that are not finite.
    """
    grid = PredictionGrid(tile, overlap, batch)
    check_map(class_palette, input, Path(output), grid)
    given = (model, len(class_palette), scale, torch.device(device))
    network = WindowNetwork(*given, autocast=autocast, tta=tta, temperature=temperature)
    classes = names or [f"class {n}" for n in range(len(class_palette))]
    legend = Legend(tuple(classes), tuple(class_palette), tags or {})
    with _opened(input) as reader:
        predictor = BandPredictor(network, reader, bands_for(reader, bands, scale), grid)
        with window_progress(predictor.windows_of(0, predictor.count), title) as advance:
            return write_map(Path(output), legend, reader, predictor.bands(0, predictor.count, advance))


def write_map(output: Path, legend: Legend, reader: RasterReader, bands: Iterable[MapBand]) -> MapSummary:
    """Write the finished bands of a raster, all of them and from top to bottom, as its map.

    Args:
        output: see `predict_map`.
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


def _opened(input: str | Path | RasterReader) -> AbstractContextManager[RasterReader]:
    """Open a raster; a reader that is open already is left open."""
    return nullcontext(input) if isinstance(input, RasterReader) else RasterReader(input)


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
    """Refuse a grid, a number of classes or a place that no map can be made with; see `predict_map`.

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
