"""Windows of a raster, predicted and blended into finished bands of rows: the whole raster, or some of its bands.

Shapes: B windows in a batch, C classes, H W pixels of a window, K rows of a finished band.
"""

from collections.abc import Callable, Iterator
from itertools import islice, takewhile
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mkd.distributed.engine import autocast
from mkd.geo.band_choice import BandChoice
from mkd.geo.blend import Band, BandBlender, Floats
from mkd.geo.grid import Start, Window, covering_windows, grid_start
from mkd.geo.raster import RasterReader
from mkd.geo.raster_info import RasterInfo
from mkd.labels import NODATA
from mkd.loader.batch import scaled, to_unit
from mkd.metrics.temperature import at_temperature
from mkd.models.segmentation import SegmentationNetwork
from mkd.models.symmetry import mean_softmax, symmetries
from mkd.pixel_scale import PixelScale


class PredictionGrid(NamedTuple):
    """How a raster is cut: side and least overlap of windows, pixels, and windows in a forward pass."""

    tile: int
    overlap: int
    batch: int

    def start(self, info: RasterInfo) -> Start:
        """Return where the first window begins inside a raster: the grid is fixed to the ground."""
        return grid_start(info.transform, self.tile - self.overlap)

    def windows(self, info: RasterInfo) -> Iterator[Window]:
        """Yield the windows of a raster, row by row."""
        return covering_windows(info.height, info.width, self.tile, self.overlap, self.start(info))

    def first_rows(self, info: RasterInfo) -> list[int]:
        """Return the first row of each band of a raster: where rows of windows begin."""
        return list(dict.fromkeys(window.row for window in self.windows(info)))


class MapBand(NamedTuple):
    """Finished rows of a map, and their counts.

    Attributes:
        row: number of the first of them.
        pixels: uint8 (K, width, 2), class id and confidence, 255 without data.
        class_pixels: int64 (C,), pixels of each class.
        confidence: sum of the largest probability over the pixels with data.
        windows: that begin at this row and were predicted.
        empty_windows: that begin at this row and hold no data.
    """

    row: int
    pixels: NDArray[np.uint8]
    class_pixels: NDArray[np.int64]
    confidence: float
    windows: int
    empty_windows: int


class WindowNetwork:
    """The model on its device, from stored pixels to probabilities."""

    def __init__(
        self,
        model: nn.Module,
        classes: int,
        scale: PixelScale,
        device: torch.device,
        *,
        tta: str,
        temperature: float = 1.0,
    ) -> None:
        """Move the model to its device, in eval mode.

        Args:
            model: float32 (B, bands, H, W), see `scaled`, to logits (B, C, H, W).
            classes: C.
            scale: what the model takes.
            device: where it runs, in bfloat16 on a GPU that has it; probabilities and their blend are float32 always.
            tta: views that are averaged, see `mkd.models.symmetry`.
            temperature: of the confidence, see `mkd.metrics.temperature`.

        Raises:
            ValueError: a tta that is not known.
        """
        symmetries(tta)  # refused here, before anything is read
        # As the pixels lie in memory; on a CPU a forward pass takes a quarter less time than channels first.
        self.model = model.to(device).to(memory_format=torch.channels_last).eval()
        self.classes, self.device, self.scale = classes, device, scale
        self.tta, self.temperature = tta, temperature

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[Any], valid: NDArray[np.bool_]) -> Floats:
        """Turn (B, H, W, bands), as stored, and (B, H, W), where there is data, into probabilities (B, C, H, W)."""
        stored = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
        known = None if valid.all() else torch.from_numpy(valid).to(self.device)
        images = to_unit(scaled(stored, known, self.scale))
        if known is not None and not isinstance(self.model, SegmentationNetwork):
            images = images.nan_to_num(0.0)  # ours put their mean there themselves
        with autocast(self.device):
            probabilities = mean_softmax(self._logits, images, self.tta)
        if not bool(torch.isfinite(probabilities).all()):
            raise ValueError(
                "the model gives values that are not finite: check its weights, or give device=cpu"
            )
        return np.asarray(probabilities.cpu().numpy(), np.float32)

    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(images)
        if logits.shape[1] != self.classes:
            raise ValueError(
                f"the model predicts {logits.shape[1]} classes, the palette has {self.classes} colours: "
                "use the palette of the model's own folder"
            )
        return logits


class BandPredictor:
    """Predicts bands of rows of a raster: a band reaches from one row of windows to the next.

    A band is the same to the last bit whether all bands are asked for or only some: the windows above that reach into
    it are predicted too, sums are taken in the same order, and batches are those of the whole raster.
    """

    def __init__(
        self, network: WindowNetwork, reader: RasterReader, choice: BandChoice, grid: PredictionGrid
    ) -> None:
        self.network, self.reader, self.choice, self.grid = network, reader, choice, grid
        self.size = (reader.info.height, reader.info.width)
        self.edges = [*grid.first_rows(reader.info), self.size[0]]  # and the end of the last
        self.across = sum(1 for _ in takewhile(lambda window: window.row == 0, self._windows()))

    @property
    def count(self) -> int:
        """Return the number of bands."""
        return len(self.edges) - 1

    def windows_of(self, first: int, stop: int) -> int:
        """Return how many windows the bands [first, stop) take, those of other bands included."""
        return len(range(*self._needed(first, stop)))

    def bands(self, first: int, stop: int, advance: Callable[[int], None]) -> Iterator[MapBand]:
        """Yield the bands [first, stop) from top to bottom.

        Args:
            first: number of a band, from 0.
            stop: one after the last; more than `first`.
            advance: told of each batch how many windows are done.
        """
        top = self._reaching(first)
        blender = BandBlender(
            self.edges[stop],
            self.size[1],
            self.network.classes,
            min(self.grid.tile, self.size[0]),
            top=self.edges[top],
        )
        empty = dict.fromkeys(self.edges, 0)  # by their first row
        for band in blender.blend(self._predictions(first, stop, empty, advance)):
            if band.row >= self.edges[first]:  # those above lack the windows that begin higher up
                yield self._finished(band, self.across - empty[band.row], empty[band.row])

    def _windows(self) -> Iterator[Window]:
        return self.grid.windows(self.reader.info)

    def _reaching(self, band: int) -> int:
        """Return the first row of windows that reaches into a band."""
        tall = min(self.grid.tile, self.size[0])
        return next(n for n, row in enumerate(self.edges) if row + tall > self.edges[band])

    def _needed(self, first: int, stop: int) -> tuple[int, int]:
        """Return the range of the windows of some bands, widened to whole batches of the raster."""
        batch, begin, end = self.grid.batch, self._reaching(first) * self.across, stop * self.across
        return begin // batch * batch, min(self.count * self.across, -(-end // batch) * batch)

    def _predictions(
        self, first: int, stop: int, empty: dict[int, int], advance: Callable[[int], None]
    ) -> Iterator[tuple[Window, Floats]]:
        """Predict the windows of some bands in order, a batch at a time; one without data costs no forward pass."""
        rows = (self.edges[self._reaching(first)], self.edges[stop - 1])
        windows = islice(self._windows(), *self._needed(first, stop))
        while group := list(islice(windows, self.grid.batch)):
            pixels = {window: found for window in group if (found := self._read(window)) is not None}
            probabilities: dict[Window, Floats] = {}
            if pixels:
                stored, valid = (np.stack(parts) for parts in zip(*pixels.values(), strict=True))
                probabilities = dict(zip(pixels, self.network(stored, valid), strict=True))
            for window in group:
                if not rows[0] <= window.row <= rows[1]:
                    continue  # of this batch in the whole raster, and of no band here
                if window in probabilities:
                    yield window, probabilities[window]
                else:
                    empty[window.row] += 1
                    shape = (self.network.classes, window.height, window.width)
                    yield window, np.zeros(shape, np.float32)
            advance(len(group))

    def _read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]] | None:
        """Return the pixels (H, W, bands) of a window and where there is data; None when it holds none."""
        valid = self.choice.valid(self.reader, window)
        return (self.choice.pixels(self.reader, window), valid) if valid.any() else None

    def _finished(self, band: Band, windows: int, empty: int) -> MapBand:
        """Turn blended probabilities into pixels of the map and their counts."""
        rows = Window(band.row, 0, band.values.shape[1], self.size[1])
        valid = self.choice.valid(self.reader, rows)
        ids = band.values.argmax(axis=0).astype(np.uint8)
        # Of the blend: scaled windows would have another blend, and maybe another class.
        sure = at_temperature(torch.from_numpy(band.values), self.network.temperature, dim=0)
        best = sure.amax(dim=0).numpy()
        confidence = np.minimum(np.rint(best * 255), NODATA - 1).astype(np.uint8)
        pixels = np.stack([ids, confidence], axis=-1)
        pixels[~valid] = NODATA
        counts = np.bincount(ids[valid], minlength=self.network.classes)
        return MapBand(band.row, pixels, counts, float(best[valid].sum(dtype=np.float64)), windows, empty)
