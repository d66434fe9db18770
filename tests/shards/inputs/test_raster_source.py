"""Rasters and data sets on S3 and in memory: the same tiles as from and to a disk."""

import io

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st

from mkd.geo.grid import Window
from mkd.geo.raster import RasterWriter
from mkd.storage import remote_file
from mkd.storage.folder import Folder
from shards.commands.verify import verify
from shards.inputs.raster_source import expand_pattern, open_raster
from tests.helpers.processes.jobs import tile_into


@pytest.fixture
def files(tmp_path):
    """Give two orthomosaics and their labels, in two folders, as bytes by relative path."""
    rng, made = np.random.default_rng(0), {}
    for name, rows in (("north", 100), ("south", 70)):
        image = rng.integers(0, 256, (rows, 90, 3), np.uint8)
        label = rng.integers(0, 3, (rows, 90, 1)).astype(np.uint8)
        for path, pixels in ((f"{name}.tif", image), (f"{name}_label.tif", label)):
            place = {"crs": "EPSG:32648", "transform": (0.5, 0, 500000, 0, -0.5, 2800000)}
            with RasterWriter(tmp_path / path, rows, 90, pixels.shape[2], "uint8", **place) as raster:
                raster.write(Window(0, 0, rows, 90), pixels)
            made[f"labels/{path}" if "label" in path else f"images/{path}"] = (tmp_path / path).read_bytes()
    return made


def stored(folder):
    """Read shards and index; records tell the times of the inputs, too."""
    return {name: folder.read(name) for name in folder.sizes() if name.endswith((".tar", "index.json"))}


def test_from_s3_to_s3(folder, files, s3, tmp_path):
    """Tiles cut from URLs, written to a URL by two processes, are those of local files, byte for byte."""
    local = Folder(tmp_path / "here")
    for place in (local, Folder(s3)):
        for name, data in files.items():
            place.write(name, data)
    options = {"size": 32, "shard_size": 4}
    for start, out, workers in ((f"{tmp_path}/here", f"{tmp_path}/out", 1), (s3, f"{s3}/out", 2)):
        labels = f"{start}/labels/{{stem}}_label.tif"
        report = tile_into(
            f"{start}/images/*.tif", folder.classfile, out, labels=labels, workers=workers, **options
        )
        assert (report["samples"], report["labelled"]) == (3 * 2 + 2 * 2, 10)
    assert stored(Folder(f"{s3}/out")) == stored(Folder(tmp_path / "out"))
    assert len(stored(Folder(tmp_path / "out"))) == 3 + 1
    assert verify(f"{s3}/out") == []
    again = tile_into(f"{s3}/images/*.tif", folder.classfile, f"{s3}/out", labels=labels, **options)
    assert again == {**report, "done_before": True}


def test_patterns_and_missing_rasters_at_urls(files):
    """Stars work in file and folder names of URLs; a raster that is not there is told."""
    place = Folder("memory://rasters-of-patterns")
    for name, data in files.items():
        place.write(name, data)
    found = expand_pattern(f"{place}/*/*th.tif")
    assert found == [f"{place}/images/north.tif", f"{place}/images/south.tif"]
    assert len(expand_pattern(f"{place}/**/*.tif")) == 4
    with open_raster(found[0]) as raster:
        assert (raster.info.height, raster.info.width) == (100, 90)
    with pytest.raises(ValueError, match="no raster matches 'memory://rasters-of-patterns/x"):
        expand_pattern(f"{place}/x*.tif")
    with pytest.raises(ValueError, match="no raster at memory://rasters-of-patterns/images/x.tif"):
        open_raster(f"{place}/images/x.tif")


@pytest.mark.parametrize("place", [None, (0.5, 0, 500000, 0, -0.5, 2800000)])
def test_files_beside_a_raster_at_a_url(tmp_path, place):
    """A mask beside it counts; a world file is refused, as GDAL cannot read it there, unless it is not needed."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 60, 60), np.uint8)
    size = {"height": 60, "width": 60, "count": 3, "dtype": "uint8"}
    size |= {"transform": rasterio.Affine(*place)} if place else {}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False):
        with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", crs="EPSG:32648", **size) as data:
            data.write(pixels)
            data.write_mask(np.repeat(np.arange(60) >= 10, 60).reshape(60, 60))
    folder = Folder(f"memory://beside-{place is None}")
    for name in ("a.tif", "a.tif.msk"):
        folder.write(name, (tmp_path / name).read_bytes())
    with open_raster(folder.url_of("a.tif")) as raster:
        assert raster.valid(Window(5, 0, 10, 60)).mean() == 0.5
    folder.write("a.tfw", b"0.5\n0\n0\n-0.5\n100.25\n199.75\n")
    if place:
        with open_raster(folder.url_of("a.tif")) as raster:
            assert raster.info.transform == place
    else:
        with pytest.raises(ValueError, match=r"a\.tif has its place on Earth in a\.tfw"):
            open_raster(folder.url_of("a.tif"))


STEPS = st.lists(
    st.tuples(st.sampled_from([0, 1, 2]), st.integers(-60, 60), st.integers(-1, 40)), max_size=12
)


@given(st.integers(0, 60), STEPS)
def test_a_range_file_is_a_file(size, steps):
    """Any seeks and reads give what an ordinary file gives, and few blocks are kept."""
    content = bytes(range(size))
    place = Folder("memory://range-files")
    place.write("file", content)
    plain = io.BytesIO(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote_file, "BLOCK_BYTES", 7)
        patch.setattr(remote_file, "MAX_BLOCKS", 2)
        file = place.open("file", size)
        for whence, offset, count in steps:
            target = max(offset + {0: 0, 1: plain.tell(), 2: size}[whence], 0)
            assert file.seek(target - file.tell(), 1) == plain.seek(target) == target
            assert file.read(count) == plain.read(count)
            assert file.tell() == plain.tell()
            assert len(file._blocks) <= 2
        assert file.seek(-size, 2) == 0
        assert file.read() == content
