"""Bands of a map predicted apart and kept as files: the same bits, and only those of this map."""

import os

import numpy as np
import pytest
import torch
from torch import nn

from mkd.geo.grid import Window, covering_windows
from mkd.geo.raster import RasterReader, RasterWriter
from mkd.inference.band_match import bands_for
from mkd.inference.band_predictor import BandPredictor, PredictionGrid, WindowNetwork
from mkd.inference.row_parts import RowParts
from mkd.models.architecture import Architecture
from mkd.models.build import build
from mkd.pixel_scale import PLAIN

HEIGHT, WIDTH = 150, 70
FPN = Architecture("tf_efficientnet_lite0", decoder="fpn", lateral_channels=8, decoder_channels=8)


@pytest.fixture
def scene(tmp_path):
    """A raster with a hole that swallows whole windows."""
    array = np.random.default_rng(0).integers(1, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    array[60:110, :50] = 0
    with RasterWriter(tmp_path / "in.tif", HEIGHT, WIDTH, 3, "uint8", nodata=0) as writer:
        writer.write(Window(0, 0, HEIGHT, WIDTH), array)
    with RasterReader(tmp_path / "in.tif") as reader:
        yield reader


def predictor(reader, grid, model=None):
    if model is None:
        model = build(FPN, 3, seed=1)
    network = WindowNetwork(model, 3, PLAIN, torch.device("cpu"), tta="none")
    return BandPredictor(network, reader, bands_for(reader, None, PLAIN), grid)


def same(a, b):
    return a.row == b.row and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.usefixtures("one_thread")  # bits are compared
@pytest.mark.parametrize("grid", [(32, 8, 4), (32, 24, 3), (40, 0, 5), (64, 63, 7), (200, 50, 2)])
def test_any_stretch_has_the_bits_of_the_whole(scene, grid):
    """Bands asked for alone equal those of the whole raster: pixels, counts, sums, windows."""
    grid = PredictionGrid(*grid)
    ours = predictor(scene, grid, None if grid.overlap < 60 else nn.Conv2d(3, 3, 5, padding=2))
    assert ours.edges == [*grid.first_rows(ours.reader.info), HEIGHT]
    whole, told = list(ours.bands(0, ours.count, lambda n: None)), []
    windows = list(covering_windows(HEIGHT, WIDTH, grid.tile, grid.overlap))
    assert sum(band.windows + band.empty_windows for band in whole) == len(windows)
    assert sum(len(band.pixels) for band in whole) == HEIGHT
    last = ours.count
    for first, stop in {(0, 1), (last // 2, last), (last // 3, last // 3 + 1), (last - 1, last)}:
        told.clear()
        alone = list(ours.bands(first, stop, told.append))
        assert len(alone) == stop - first
        assert all(same(a, b) for a, b in zip(alone, whole[first:stop], strict=True))
        assert sum(told) == ours.windows_of(first, stop)
    assert ours.windows_of(0, last) == len(windows)


def test_bands_are_read_as_they_were_written(scene, tmp_path):
    """All fields come back; nothing is missing any more, and the folder goes when it is told to."""
    ours, parts = predictor(scene, PredictionGrid(32, 8, 4)), RowParts(tmp_path / "map.tif", "ab" * 32)
    rows = ours.edges[:-1]
    assert parts.prepare(rows, 0) == rows
    made = list(ours.bands(0, ours.count, lambda n: None))
    for band in reversed(made):
        parts.write(band)
    assert all(same(a, b) for a, b in zip(parts.bands(rows), made, strict=True))
    assert parts.prepare(rows, 0) == []
    parts.remove()
    assert not parts.folder.exists()
    with pytest.raises(ValueError, match="must share the storage that output= lies on"):
        parts.write(made[0])


@pytest.mark.parametrize(
    "fault", ["cut", "empty", "other map", "half written", "older than the scene", "other row"]
)
def test_what_is_no_band_of_this_map_is_made_again(scene, tmp_path, fault):
    """Damaged, foreign and older files are removed, and their rows are missing; the others stay."""
    ours, parts = predictor(scene, PredictionGrid(32, 8, 4)), RowParts(tmp_path / "map.tif", "ab" * 32)
    rows, newest = ours.edges[:-1], 0
    parts.prepare(rows, 0)
    for band in ours.bands(0, 3, lambda n: None):
        parts.write(band)
    files = sorted(parts.folder.iterdir())
    match fault:
        case "cut":
            files[1].write_bytes(files[1].read_bytes()[:-30])
        case "empty":
            files[1].write_bytes(b"")
        case "other map":
            os.replace(files[1], parts.folder / files[1].name.replace("ab", "cd"))
        case "half written":
            os.replace(files[1], parts.folder / f".tmp-{files[1].name}")
        case "older than the scene":
            newest = files[1].stat().st_mtime_ns
            os.utime(files[1], ns=(newest - 1, newest - 1))
            os.utime(files[0], ns=(newest, newest))
            os.utime(files[2], ns=(newest, newest))
        case "other row":
            files[1].write_bytes(files[0].read_bytes())
    assert parts.prepare(rows, newest) == [rows[1], *rows[3:]]
    assert sorted(parts.folder.iterdir()) == [files[0], files[2]]


def test_a_band_damaged_while_it_waits_is_named(tmp_path):
    """Reading it is a sentence with the file."""
    parts = RowParts(tmp_path / "map.tif", "ab" * 32)
    parts.prepare([0], 0)
    (parts.folder / f"{'ab' * 16}-000000000.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="000000000.npz is damaged .* remove it"):
        list(parts.bands([0]))
