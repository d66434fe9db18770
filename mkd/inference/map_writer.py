"""Model and GeoTIFF to land-cover map, window by window, in memory that does not grow with height.

Shapes: B windows in a batch, C classes, H W pixels of a window, K rows of a finished band.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mkd.geo.band_choice import BandChoice
from mkd.geo.blend import Band, BandBlender, Floats
from mkd.geo.class_map import ClassMapWriter, Legend
from mkd.geo.grid import Window, covering_windows
from mkd.geo.raster import RasterReader
from mkd.geo.raster_info import RasterInfo
from mkd.inference.band_match import bands_for
from mkd.inference.window_progress import window_progress
from mkd.labels import NODATA, Colour
from mkd.loader.batch import scaled, to_unit
from mkd.models.segmentation import SegmentationNetwork
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
    title: str = "map",
) -> MapSummary:
    """Write the land-cover map of a raster: argmax over classes of the blended window probabilities.

    p = blend of softmax(model(window));  band 1 = argmax_c p_c;  band 2 = min(254, round(255 max_c p_c)).
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
        title: what the progress is called.

    Returns:
        Counts and mean confidence.

    Raises:
        ValueError: a raster of other bands or type, sizes that do not fit, a model of another class count, or
            logits that are not finite.
    """
    path = Path(input.path if isinstance(input, RasterReader) else input)
    _check(class_palette, path, Path(output), tile, overlap, batch)
    network = _Network(model, len(class_palette), torch.device(device), autocast, scale)
    legend = _legend(class_palette, names, tags)
    with _opened(input) as reader:
        grid = _WindowGrid(tile, overlap, batch)
        return _write_map(
            network, reader, bands_for(reader, bands, scale), Path(output), legend, grid, title=title
        )


class _WindowGrid(NamedTuple):
    """How a raster is cut: side and least overlap of windows, pixels, and windows in a forward pass."""

    tile: int
    overlap: int
    batch: int


def _write_map(
    network: "_Network",
    reader: RasterReader,
    choice: BandChoice,
    output: Path,
    legend: Legend,
    grid: _WindowGrid,
    *,
    title: str,
) -> MapSummary:
    """Predict the windows as the blender asks for them; write each band of rows once it is finished."""
    info, classes = reader.info, len(legend.names)
    size = (info.height, info.width)
    total = sum(1 for _ in covering_windows(*size, grid.tile, grid.overlap))
    counts = _Counts(np.zeros(classes, np.int64))
    blender = BandBlender(*size, classes, rows=min(grid.tile, info.height))
    with (
        ClassMapWriter(output, *size, legend, **_place(info, reader.path)) as writer,
        window_progress(total, title) as advance,
    ):
        windows, read = covering_windows(*size, grid.tile, grid.overlap), partial(_read, reader, choice)
        for band in blender.blend(_predictions(network, windows, read, grid.batch, counts, advance)):
            rows = Window(band.row, 0, band.values.shape[1], info.width)
            writer.write(rows, counts.map_pixels(band, choice.valid(reader, rows)))
    return counts.summary(*size)


def _opened(input: str | Path | RasterReader) -> AbstractContextManager[RasterReader]:
    """Open a raster; a reader that is open already is left open."""
    return nullcontext(input) if isinstance(input, RasterReader) else RasterReader(input)


def _legend(palette: Sequence[Colour], names: Sequence[str] | None, tags: Mapping[str, str] | None) -> Legend:
    classes = tuple(names or (f"class {n}" for n in range(len(palette))))
    return Legend(classes, tuple(palette), tags or {})


def _place(info: RasterInfo, input: str | Path) -> dict[str, Any]:
    """Return the place of a raster on Earth, for a map on its grid; warn when it has none."""
    if info.transform is None and info.control is None:
        _log.warning(
            "note: %s has no place on Earth (transform, control points, RPCs), so its map has none", input
        )
    return {"crs": info.crs, "transform": info.transform, "control": info.control}


class _Network:
    """The model on its device, from stored pixels to probabilities."""

    def __init__(
        self, model: nn.Module, classes: int, device: torch.device, autocast: bool, scale: PixelScale
    ) -> None:
        self.layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self.model = model.to(device).to(memory_format=self.layout).eval()
        self.classes, self.device, self.autocast, self.scale = classes, device, autocast, scale

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[Any], valid: NDArray[np.bool_]) -> Floats:
        """Turn (B, H, W, bands), as stored, and (B, H, W), where there is data, into probabilities (B, C, H, W)."""
        stored = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
        known = None if valid.all() else torch.from_numpy(valid).to(self.device)
        images = to_unit(scaled(stored, known, self.scale)).contiguous(memory_format=self.layout)
        if known is not None and not isinstance(self.model, SegmentationNetwork):
            images = images.nan_to_num(0.0)  # ours put their mean there themselves
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            logits: torch.Tensor = self.model(images)
        if logits.shape[1] != self.classes:
            raise ValueError(
                f"the model predicts {logits.shape[1]} classes, the palette has {self.classes} colours: "
                "use the palette of the model's own folder"
            )
        probabilities = logits.float().softmax(dim=1)
        if not bool(torch.isfinite(probabilities).all()):
            raise ValueError(
                "the model gives values that are not finite: check its weights, or switch autocast off"
            )
        return np.asarray(probabilities.cpu().numpy(), np.float32)


@dataclass
class _Counts:
    """Turns finished bands into map pixels and counts classes, windows and confidence."""

    class_pixels: NDArray[np.int64]
    nodata_pixels: int = 0
    confidence: float = 0.0  # sum over pixels with data
    windows: int = 0
    empty_windows: int = 0

    def map_pixels(self, band: Band, valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return the (K, width, 2) uint8 pixels of a band: class id and confidence, 255 without data."""
        ids = band.values.argmax(axis=0).astype(np.uint8)
        best = band.values.max(axis=0)
        self.class_pixels += np.bincount(ids[valid], minlength=len(self.class_pixels))
        self.nodata_pixels += int((~valid).sum())
        self.confidence += float(best[valid].sum(dtype=np.float64))
        confidence = np.minimum(np.rint(best * 255), NODATA - 1).astype(np.uint8)
        pixels = np.stack([ids, confidence], axis=-1)
        pixels[~valid] = NODATA
        return pixels

    def summary(self, height: int, width: int) -> MapSummary:
        """Return the counts of the whole map."""
        pixels = int(self.class_pixels.sum())
        return MapSummary(
            height=height,
            width=width,
            windows=self.windows,
            empty_windows=self.empty_windows,
            class_pixels=tuple(int(n) for n in self.class_pixels),
            nodata_pixels=self.nodata_pixels,
            mean_confidence=self.confidence / pixels if pixels else None,
        )


def _predictions(
    network: _Network,
    windows: Iterator[Window],
    read: Callable[[Window], tuple[NDArray[Any], NDArray[np.bool_]] | None],
    batch: int,
    counts: _Counts,
    advance: Callable[[int], None],
) -> Iterator[tuple[Window, Floats]]:
    """Predict the windows in their order, `batch` at a time; one without any data costs no forward pass."""
    while group := list(islice(windows, batch)):
        pixels = {window: found for window in group if (found := read(window)) is not None}
        counts.windows += len(pixels)
        counts.empty_windows += len(group) - len(pixels)
        probabilities: dict[Window, Floats] = {}
        if pixels:
            stored, valid = (np.stack(parts) for parts in zip(*pixels.values(), strict=True))
            probabilities = dict(zip(pixels, network(stored, valid), strict=True))
        for window in group:
            if window in probabilities:
                yield window, probabilities[window]
            else:
                yield window, np.zeros((network.classes, window.height, window.width), np.float32)
        advance(len(group))


def _read(
    reader: RasterReader, choice: BandChoice, window: Window
) -> tuple[NDArray[Any], NDArray[np.bool_]] | None:
    """Return the pixels (H, W, bands) of a window and where there is data; None when it holds none."""
    valid = choice.valid(reader, window)
    return (choice.pixels(reader, window), valid) if valid.any() else None


def _check(palette: Sequence[Colour], input: Path, output: Path, tile: int, overlap: int, batch: int) -> None:
    if tile < 1 or batch < 1:
        raise ValueError(f"tile is {tile} and batch is {batch}: both must be at least 1")
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap is {overlap}: it must be at least 0 and less than tile, which is {tile}")
    if not 1 <= len(palette) <= NODATA:
        raise ValueError(f"the palette has {len(palette)} colours: a map holds 1 to {NODATA} classes")
    if input.resolve() == output.resolve():
        raise ValueError(f"output is the input, {input}: give the map another name")
    if not output.absolute().parent.is_dir():
        raise ValueError(f"the folder of output={output} does not exist: create it, or name another")
