"""Pixels without data: `pack` and `tile` agree on them, and what lies there does not matter."""

import numpy as np
import pytest
import rasterio
from PIL import Image

from mkd.dataset.index import read_index
from shards.commands.pack import pack
from shards.commands.verify import verify
from shards.output.build_options import BuildOptions
from shards.reading.shard_reader import read_tiles
from tests.helpers.processes.jobs import tile_into
from tests.helpers.shards import read_dataset

HOLE = np.zeros((16, 16), bool)
HOLE[3:9, 4:16] = True


def chip(path, how, under, dtype="uint8", bands=3):
    """Write a GeoTIFF chip with a hole; `under` lies below it where `how` leaves that open."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(1, 255, (bands, 16, 16)).astype(dtype)
    pixels[:, HOLE] = 0 if how == "nodata" else np.asarray(under).astype(dtype)
    if how == "alpha":
        alpha = np.where(HOLE, 0, 255).astype(dtype)
        pixels = np.concatenate([pixels, alpha[None]])
    more = {"nodata": 0} if how == "nodata" else {}
    size = {"count": len(pixels), "height": 16, "width": 16, "dtype": dtype}
    if how == "alpha":
        more |= {"photometric": "RGB", "alpha": "YES"}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", driver="GTiff", **size, **more) as out,
    ):
        out.write(pixels)
        if how == "mask":
            out.write_mask(~HOLE)


def build(folder, tmp_path, how, under, command, **options):
    """Pack or tile one chip with its mask; return its tile, encoded."""
    out = tmp_path / f"{command}-{how}-{under}"
    (folder.root / "images").mkdir(exist_ok=True)
    chip(folder.root / "images/t0.tif", how, under, **options)
    Image.fromarray(np.ones((16, 16), np.uint8)).save(folder.root / "masks/t0.tif")
    folder.describe(layout={"images": "images/*.tif", "masks": "masks/{stem}.tif"})
    if command == "pack":
        pack(folder.root, folder.classfile, BuildOptions(out))
    else:
        source = folder.root / "images/t0.tif"
        tile_into(source, folder.classfile, out, labels="../masks/{stem}.tif", size=16)
    assert verify(out) == []
    index = read_index(out)
    assert (index.missing_pixels, index.ignored_pixels) == (HOLE.sum(), HOLE.sum())
    (tile,) = read_tiles(out)
    return tile


@pytest.mark.parametrize("command", ["pack", "tile"])
@pytest.mark.parametrize("how", ["alpha", "nodata", "mask"])
def test_what_lies_below_does_not_matter(folder, tmp_path, how, command):
    """Two contents of the hole give the same bytes; its pixels are ignored, counted, and marked in valid.png."""
    first = build(folder, tmp_path, how, 7, command)
    other = build(folder, tmp_path, how, 250, command)
    assert (first.image, first.label, first.valid) == (other.image, other.label, other.valid)
    assert (first.bands, first.extension, first.missing) == (3, "png", HOLE.sum())
    (sample,) = read_dataset(tmp_path / f"{command}-{how}-7")
    assert np.array_equal(sample.label == 255, HOLE)
    assert not sample.image[HOLE].any()


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_bands_of_other_types_have_holes_too(folder, tmp_path, dtype):
    """Five bands with a no-data value, packed and tiled alike; the statistics leave the hole out."""
    tiles = [build(folder, tmp_path, "nodata", 0, c, dtype=dtype, bands=5) for c in ("pack", "tile")]
    assert tiles[0].image == tiles[1].image
    assert tiles[0].valid == tiles[1].valid
    index = read_index(tmp_path / "tile-nodata-0")
    assert (index.bands, index.dtype) == (5, dtype)
    (sample,) = read_dataset(tmp_path / "tile-nodata-0")
    low, high = np.percentile(sample.image[~HOLE].astype(float), (2, 98), axis=0)
    assert index.statistics.low == pytest.approx(low)
    assert index.statistics.high == pytest.approx(high)


def test_transparent_pixels_of_pictures_are_missing(folder, tmp_path):
    """Alpha of a PNG, a palette's own alpha and a transparent colour: each marks its pixels."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(1, 255, (12, 16, 3)).astype(np.uint8)
    alpha = np.full((12, 16), 255, np.uint8)
    alpha[:5] = 0
    Image.fromarray(np.dstack([rgb, alpha])).save(folder.root / "images/t0.png")
    indices = Image.fromarray((np.arange(192).reshape(12, 16) % 4).astype(np.uint8), "P")
    indices.putpalette([9, 9, 9, 99, 0, 0, 0, 99, 0, 0, 0, 99])
    indices.save(folder.root / "images/t1.png", transparency=2)
    rgb[0, 0] = (1, 2, 3)
    Image.fromarray(rgb).save(folder.root / "images/t2.png", transparency=(1, 2, 3))
    pack(folder.root, folder.classfile, BuildOptions(tmp_path / "out"))
    tiles = {tile.key: tile for tile in read_tiles(tmp_path / "out")}
    found = {key: tile.missing for key, tile in tiles.items()}
    assert [found[f"t{n}"] for n in range(4)] == [80, 48, 1, 0]
    samples = {s.key: s for s in read_dataset(tmp_path / "out")}
    assert samples["t1"].image[0, 1].tolist() == [99, 0, 0]


def test_bands_asked_for_are_data(folder, tmp_path):
    """`pack --bands 4,1,2` of chips whose fourth band is called alpha: it is data, and nothing is missing."""
    chip(folder.root / "images/t0.tif", "alpha", 9)
    folder.describe(layout={"images": "images/*.tif", "masks": None})
    pack(folder.root, folder.classfile, BuildOptions(tmp_path / "out"), bands=(4, 1, 2))
    (sample,) = read_dataset(tmp_path / "out")
    assert read_index(tmp_path / "out").missing_pixels == 0
    assert np.array_equal(sample.image[..., 0], np.where(HOLE, 0, 255))


def test_alpha_is_said_when_it_is_a_mask(folder, tmp_path):
    """`tile` says which band it takes for alpha, and what to type if it is data."""
    chip(tmp_path / "a.tif", "alpha", 9)
    tile_into(tmp_path / "a.tif", folder.classfile, tmp_path / "out", size=16)
    assert any("band 4 of" in line and "--bands 1,2,3,4" in line for line in folder.messages)
    folder.messages.clear()
    tile_into(tmp_path / "a.tif", folder.classfile, tmp_path / "all", size=16, bands=(1, 2, 3, 4))
    assert not any("called alpha" in line for line in folder.messages)
    assert read_index(tmp_path / "all").bands == 4
