"""What `tile` says of places, and how it notices that a file behind a raster has changed."""

import os
import re
import shutil

import numpy as np
import pytest
import rasterio

from mkd.dataset.index import read_index
from mkd.geo.grid import Window
from mkd.geo.place.control_points import ControlPoints
from mkd.geo.raster import RasterWriter
from mkd.geo.raster_files import raster_files
from mkd.storage.folder import Folder
from shards.inputs.raster_source import dependency_stamps
from tests.helpers.processes.jobs import pack_into, tile_into
from tests.helpers.shards import read_dataset

PLACE = {"crs": "EPSG:32633", "transform": (0.1, 0.0, 500000.0, 0.0, -0.1, 5000000.0)}
CORNERS = ((0, 0, 5e5, 5e6, 0), (0, 64, 500006.4, 5e6, 0), (64, 0, 5e5, 4999993.6, 0))


def write(path, array, **place):
    """Write an array as GeoTIFF."""
    pixels = array[..., None] if array.ndim == 2 else array
    with RasterWriter(path, *pixels.shape, str(array.dtype), **(place or PLACE)) as raster:
        raster.write(Window(0, 0, *pixels.shape[:2]), pixels)


def noise(seed=0):
    """Draw a 64 x 64 picture."""
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)


def vrt(path, source, bands, relative=1):
    """Write a VRT of one source."""
    layers = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename relativeToVRT="{relative}">'
        f"{source}</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
        for band in range(1, bands + 1)
    )
    head = '<VRTDataset rasterXSize="64" rasterYSize="64"><SRS>EPSG:32633</SRS>'
    path.write_text(f"{head}<GeoTransform>500000,0.1,0,5000000,0,-0.1</GeoTransform>{layers}</VRTDataset>")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (
            {"control": ControlPoints(CORNERS, "EPSG:32633")},
            "1 raster has no transform, only control points, .*3 ground",
        ),
        ({"crs": None, "transform": None}, r"1 raster has no place on Earth, .*no CRS and transform"),
        ({"crs": "EPSG:32633"}, r"1 raster has no place on Earth, .*no transform"),
        ({"transform": PLACE["transform"]}, r"1 raster has no place on Earth, .*no CRS\)"),
        (PLACE, None),
    ],
)
def test_rasters_whose_tiles_have_no_place_are_said(tmp_path, folder, place, words):
    """Control points alone, and a missing CRS or transform, are told; such tiles have no transform."""
    write(tmp_path / "a.tif", noise(), **{"crs": None, **place})
    tile_into(tmp_path / "a.tif", folder.classfile, tmp_path / "out", size=32)
    notes = [line for line in folder.messages if "place on Earth" in line]
    if words is None:
        assert notes == []
    else:
        assert len(notes) == 1
        assert re.search(words, notes[0])
    if "control" in place:
        assert all(sample.meta["transform"] is None for sample in read_dataset(tmp_path / "out"))


def test_labels_with_other_heights_or_a_hair_beside_the_grid_are_taken(tmp_path, folder):
    """A compound CRS and 1/100 pixel are no difference, and the offset is told; half a pixel is refused."""
    write(tmp_path / "a.tif", noise(), crs="EPSG:32633+5773", transform=PLACE["transform"])
    label = np.zeros((64, 64), np.uint8)
    for name, shift in (("near", 0.001), ("off", 0.05)):
        write(
            tmp_path / f"{name}.tif",
            label,
            crs="EPSG:32633",
            transform=(0.1, 0, 500000 + shift, 0, -0.1, 5000000),
        )
    report = tile_into(
        tmp_path / "a.tif", folder.classfile, tmp_path / "out", labels=tmp_path / "near.tif", size=32
    )
    assert report["labelled"] == 4
    assert any(
        "1 label lies beside the grid" in line and "by 0.01 pixels" in line for line in folder.messages
    )
    with pytest.raises(
        ValueError, match=r"off.tif differ in transform .* by up to 0.5 pixels \(0.1 are allowed\)"
    ):
        tile_into(tmp_path / "a.tif", folder.classfile, tmp_path / "o2", labels=tmp_path / "off.tif", size=32)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("changed", ["image", "label"])
def test_a_changed_source_of_a_vrt_is_noticed(tmp_path, folder, depth, changed):
    """Same names and sizes, other pixels behind one or two VRTs: refused; unchanged or touched only: known."""
    write(tmp_path / "image.tif", noise())
    write(tmp_path / "label.tif", np.zeros((64, 64), np.uint8))
    for name, bands in (("image", 3), ("label", 1)):
        vrt(tmp_path / f"{name}1.vrt", f"{name}.tif", bands)
        vrt(tmp_path / f"{name}2.vrt", f"{name}1.vrt", bands)

    def cut():
        source, labels = tmp_path / f"image{depth}.vrt", tmp_path / f"label{depth}.vrt"
        return tile_into(source, folder.classfile, tmp_path / "out", labels=labels, size=32, shard_size=2)

    first = cut()
    assert cut() == {**first, "done_before": True}
    os.utime(tmp_path / "label.tif", (1, 1))
    assert cut() == {**first, "done_before": True}
    if changed == "image":
        write(tmp_path / "image.tif", noise(1))
    else:
        write(tmp_path / "label.tif", np.full((64, 64), 2, np.uint8))
    with pytest.raises(ValueError, match="made of other inputs"):
        cut()


def test_a_build_in_the_middle_notices_a_changed_source(tmp_path, folder):
    """The index is not there yet: the shards of the changed source are made again, and the result is that of it."""
    write(tmp_path / "image.tif", noise())
    write(tmp_path / "label.tif", np.zeros((64, 64), np.uint8))
    vrt(tmp_path / "label.vrt", "label.tif", 1)
    options = {"labels": tmp_path / "label.vrt", "size": 32, "shard_size": 1}
    tile_into(tmp_path / "image.tif", folder.classfile, tmp_path / "out", **options)
    (tmp_path / "out/index.json").unlink()
    write(tmp_path / "label.tif", np.full((64, 64), 2, np.uint8))
    tile_into(tmp_path / "image.tif", folder.classfile, tmp_path / "out", **options)
    assert read_index(tmp_path / "out").histogram == (0, 0, 4096)


def test_files_that_a_raster_depends_on(tmp_path):
    """Mask, world file and metadata count, overviews do not; missing sources and circles do no harm."""
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False):
        with rasterio.open(
            tmp_path / "a.tif", "w", driver="GTiff", height=64, width=64, count=3, dtype="uint8"
        ) as out:
            out.write(noise().transpose(2, 0, 1))
            out.write_mask(np.ones((64, 64), bool))
    (tmp_path / "a.tfw").write_text("0.1\n0\n0\n-0.1\n500000\n5000000\n")
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset><SRS>EPSG:32633</SRS></PAMDataset>")
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(tmp_path / "a.tif", "r+") as data:
        data.build_overviews([2])
    vrt(tmp_path / "v.vrt", "a.tif", 3)
    vrt(tmp_path / "gone.vrt", "none.tif", 3)
    vrt(tmp_path / "loop.vrt", "loop.vrt", 3)
    beside = {"a.tif.msk", "a.tfw", "a.tif.aux.xml"}
    names = {
        p: {os.path.basename(f) for f in raster_files(tmp_path / p)[1:]}
        for p in ("a.tif", "v.vrt", "loop.vrt")
    }
    assert names == {"a.tif": beside, "v.vrt": {"a.tif", *beside}, "loop.vrt": set()}
    path = str(tmp_path / "v.vrt")
    before = dependency_stamps([path])[path]
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert set(dependency_stamps([str(tmp_path / "copy/v.vrt")])[str(tmp_path / "copy/v.vrt")]) == set(before)
    assert dependency_stamps([str(tmp_path / "gone.vrt")])[str(tmp_path / "gone.vrt")]["none.tif"].size == -1
    place = Folder("memory://depends")
    for name in ("a.tif", "a.tif.msk", "v.vrt"):
        place.write(name, (tmp_path / name).read_bytes())
    assert set(dependency_stamps(["memory://depends/v.vrt"])["memory://depends/v.vrt"]) == {
        "a.tif",
        "a.tif.msk",
    }


def test_packed_geotiff_chips_keep_their_place(tmp_path, folder):
    """A GeoTIFF's CRS and transform stand in its tile's record; other images have none."""
    write(tmp_path / "set/images/geo.tif", noise()[:12, :16])
    folder.mask("masks/geo.png", folder.ids(9))
    pack_into(folder.root, folder.classfile, tmp_path / "out")
    metas = {sample.key: sample.meta for sample in read_dataset(tmp_path / "out")}
    assert metas["geo"]["transform"] == list(PLACE["transform"])
    assert "32633" in metas["geo"]["crs"]
    assert all(
        meta["crs"] is None and meta["transform"] is None for key, meta in metas.items() if key != "geo"
    )
