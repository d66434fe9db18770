"""Bands, bits and kinds of image files of tiles; damaged rasters; rasters that no memory holds."""

import json
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from mkd.dataset.index import read_index
from shards.commands.verify import verify
from shards.reading.shard_reader import read_tiles
from tests.helpers.processes.jobs import tile_into
from tests.helpers.shards import read_dataset

PLACE = {"crs": "EPSG:32648", "transform": rasterio.Affine(0.5, 0, 0, 0, -0.5, 0)}


def smooth(bands, dtype="uint8", height=64, width=96):
    """Make pixels that change slowly, as photographs do: (H, W, bands)."""
    rows, cols = np.mgrid[:height, :width]
    top = np.iinfo(dtype).max
    waves = [0.5 + 0.4 * np.sin(rows / (9 + band) + cols / 13) for band in range(bands)]
    return (np.stack(waves, -1) * top).astype(dtype)


def write(path, pixels, alpha=False):
    """Write a GeoTIFF, its last band alpha or not, in blocks of 32."""
    height, width, count = pixels.shape
    profile = {"driver": "GTiff", "tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "deflate"}
    profile |= {"photometric": "MINISBLACK", "alpha": "UNSPECIFIED"}
    profile |= PLACE
    with rasterio.open(
        path, "w", height=height, width=width, count=count, dtype=str(pixels.dtype), **profile
    ) as data:
        if alpha:
            data.colorinterp = [ColorInterp.undefined] * (count - 1) + [ColorInterp.alpha]
        data.write(pixels.transpose(2, 0, 1))
    return path


def cut(folder, source, out, **options):
    """Tile without words."""
    return tile_into(source, folder.classfile, out, size=32, **options)


@pytest.mark.parametrize(
    ("bands", "dtype", "options", "kept", "extension"),
    [
        (3, "uint8", {}, (0, 1, 2), "png"),
        (3, "uint8", {"format": "tif"}, (0, 1, 2), "tif"),
        (4, "uint8", {}, (0, 1, 2, 3), "tif"),
        (4, "uint8", {"bands": (4, 3, 1)}, (3, 2, 0), "png"),
        (1, "uint8", {"bands": (1, 1, 1)}, (0, 0, 0), "png"),
        (3, "uint16", {}, (0, 1, 2), "tif"),
        (7, "uint16", {}, tuple(range(7)), "tif"),
    ],
)
def test_bands_and_bits_survive(folder, tmp_path, bands, dtype, options, kept, extension):
    """Pixels of any bands and bits come back exactly; index and members tell their kind; verify agrees."""
    pixels = smooth(bands, dtype)
    cut(folder, write(tmp_path / "a.tif", pixels), tmp_path / "out", **options)
    index = read_index(tmp_path / "out")
    assert (index.bands, index.dtype, index.samples) == (len(kept), dtype, 6)
    assert {made.extension for made in read_tiles(tmp_path / "out")} == {extension}
    for sample in read_dataset(tmp_path / "out"):
        row, col, height, width = sample.meta["window"]
        assert sample.image.dtype == dtype
        assert np.array_equal(sample.image, pixels[row : row + height, col : col + width, kept])
    assert verify(tmp_path / "out") == []


def test_an_alpha_band_is_no_colour(folder, tmp_path):
    """Alpha says where there is data, and is not kept: five bands of 16 bits become four."""
    pixels = smooth(5, "uint16")
    pixels[..., 4] = 65535
    pixels[:32, :32, 4] = 0
    report = cut(folder, write(tmp_path / "a.tif", pixels, alpha=True), tmp_path / "out")
    assert (report["samples"], report["no_data"]) == (5, 1)
    assert read_index(tmp_path / "out").bands == 4


def test_jpeg_quality(folder, tmp_path):
    """JPEG tiles are near the raster, nearer and larger with more quality; their labels are exact."""
    pixels = smooth(3)
    label = (pixels[..., :1] // 100).astype(np.uint8)
    source, truth = write(tmp_path / "a.tif", pixels), write(tmp_path / "b.tif", label)
    found = {}
    for quality in (30, None, 98):
        out = tmp_path / f"q{quality}"
        cut(folder, source, out, labels=truth, format="jpeg", quality=quality)
        assert verify(out) == []
        samples = list(read_dataset(out))
        assert all(made.extension == "jpg" for made in read_tiles(out))
        errors = []
        for sample in samples:
            row, col = sample.meta["window"][:2]
            part = (slice(row, row + 32), slice(col, col + 32))
            assert np.array_equal(sample.label, label[part][..., 0])
            errors.append(np.abs(sample.image.astype(int) - pixels[part]).mean())
        found[quality] = (np.mean(errors), sum(len(made.image) for made in read_tiles(out)))
    assert found[30][0] > found[None][0] > found[98][0]
    assert found[30][1] < found[None][1] < found[98][1]
    assert found[98][0] < 2


def test_windows_that_cannot_be_decoded_are_listed(folder, tmp_path):
    """A raster cut short gives the tiles it still holds; the others are bad, and too many stop the build."""
    pixels = np.random.default_rng(0).integers(0, 256, (320, 320, 3), np.uint8)
    whole = write(tmp_path / "whole.tif", pixels).read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(
        ValueError, match=r"of 100 unlabelled tiles are bad, .* cannot read the raster .*a\.tif"
    ):
        cut(folder, tmp_path / "a.tif", tmp_path / "out")
    report = cut(folder, tmp_path / "a.tif", tmp_path / "out", max_bad=0.5)
    lines = (tmp_path / "out/quarantine.jsonl").read_text().splitlines()
    assert 60 < report["samples"] == 100 - len(lines) < 90
    assert all("a.tif at row " in json.loads(line)["source"] for line in lines)
    for sample in read_dataset(tmp_path / "out"):
        row, col, height, width = sample.meta["window"]
        assert np.array_equal(sample.image, pixels[row : row + height, col : col + width])


def test_a_raster_larger_than_memory(folder, tmp_path):
    """384 MB of pixels are cut by a process that may take less than that beside what it has when it starts."""
    height, width, size = 16000, 8000, 500
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "tiled": True,
        "compress": "deflate",
        "zlevel": 1,
        **PLACE,
    }
    with rasterio.open(tmp_path / "big.tif", "w", height=height, width=width, count=3, **profile) as raster:
        for row in range(0, height, 2000):  # one colour: read like any other, and left out quickly
            colour = np.full((3, 2000, width), 1 + row // 2000, np.uint8)
            raster.write(colour, window=rasterio.windows.Window(0, row, width, 2000))
        place = rasterio.windows.Window(5000, 8000, size, size)
        raster.write(noise.transpose(2, 0, 1), window=place)
    code = f"""
import resource
from shards.commands.tile import tile
from shards.inputs.scenes.tiling import TilingOptions
from shards.output.build_options import BuildOptions
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (360 << 20),) * 2)
options, tiling = BuildOptions("{tmp_path}/out"), TilingOptions(size={size})
report = tile("{tmp_path}/big.tif", "{folder.classfile}", options, tiling=tiling)
assert report["samples"] == 1 and report["blank"] == 511, report
try:
    bytes({height * width * 3})
except MemoryError:
    print("too large indeed")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.stdout == "too large indeed\n", done.stderr
    (sample,) = read_dataset(tmp_path / "out")
    assert np.array_equal(sample.image, noise)


def test_a_note_about_rasters_in_whole_rows(folder, tmp_path):
    """A raster whose rows are so wide that no cache holds a row of tiles is told, with what to do."""
    profile = {"driver": "GTiff", "dtype": "uint8", "SPARSE_OK": "TRUE", "blockysize": 1, **PLACE}
    with rasterio.open(tmp_path / "a.tif", "w", height=512, width=200_000, count=3, **profile):
        pass
    options = {"part": "2/2", "shard_size": 1000}  # one shard, so this part has none to cut
    tile_into(tmp_path / "a.tif", folder.classfile, tmp_path / "out", **options)
    (note,) = (line for line in folder.messages if line.startswith("note:"))
    assert "a.tif is stored in whole rows, 200,000 pixels wide" in note
