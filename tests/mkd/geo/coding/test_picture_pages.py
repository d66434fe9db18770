"""Files of several pictures: pages of TIFFs and frames are seen, overviews, masks and previews are none."""

import io

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import Resampling

from mkd.geo.coding.picture_pages import check_pages, pages_fault
from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader

NOISE = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
KINDS = ["TIFF", "PNG", "GIF", "WEBP"]


def pages(kind, number, **options):
    """Encode some pictures as one file."""
    first, *others = (Image.fromarray(pixels) for pixels in NOISE[:number])
    buffer = io.BytesIO()
    if others:
        options |= {"save_all": True, "append_images": others}
    first.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_pages_and_frames_are_seen(kind, number):
    """A file of one picture passes, one of two or three does not."""
    found = pages_fault(io.BytesIO(pages(kind, number)))
    assert bool(found) == (number > 1)
    assert not found or "of which the first alone would be taken" in found


@pytest.mark.parametrize("options", [{}, {"BIGTIFF": "YES"}, {"ENDIANNESS": "BIG"}])
def test_overviews_and_masks_are_no_pages(tmp_path, options):
    """An internal mask, and overviews of it and of the pixels, belong to the one picture of an orthomosaic."""
    path = tmp_path / "x.tif"
    size = {"height": 64, "width": 64, "count": 3, "dtype": "uint8"}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        with rasterio.open(path, "w", driver="GTiff", **size, **options) as data:
            data.write(NOISE[0].transpose(2, 0, 1))
            data.write_mask(np.eye(64, dtype=bool))
        with rasterio.open(path, "r+") as data:
            data.build_overviews([2, 4], Resampling.nearest)
    check_pages(path.read_bytes(), "x")
    with rasterio.Env(), rasterio.open(path, "r+") as data:
        assert data.overviews(1) == [2, 4]
        assert not data.subdatasets
    with RasterReader(path) as reader:
        assert (reader.read(Window(0, 0, 64, 64)) == NOISE[0]).all()


def test_previews_of_a_camera_are_no_pages():
    """The first picture of an MPO is the photograph; a drone's camera puts previews behind it."""
    check_pages(pages("MPO", 3), "DJI_0001.JPG")


def test_directories_that_go_round_end():
    """A TIFF whose second directory is its first again has one picture, and reading it ends."""
    data = bytearray(pages("TIFF", 2))
    first = int.from_bytes(data[4:8], "little")
    after = first + 2 + 12 * int.from_bytes(data[first : first + 2], "little")
    data[after : after + 4] = data[4:8]
    assert pages_fault(io.BytesIO(bytes(data))) == ""


def test_a_directory_beyond_all_files_is_none(tmp_path):
    """A BigTIFF on a disk may say that its second directory lies where no seek reaches: it has one picture."""
    path = tmp_path / "x.tif"
    with rasterio.open(
        path, "w", driver="GTiff", BIGTIFF="YES", height=8, width=8, count=1, dtype="uint8"
    ) as data:
        data.write(NOISE[0, :8, :8, :1].transpose(2, 0, 1))
    content = bytearray(path.read_bytes())
    first = int.from_bytes(content[8:16], "little")
    after = first + 8 + 20 * int.from_bytes(content[first : first + 8], "little")
    for far in (1 << 62, (1 << 64) - 1):
        content[after : after + 8] = far.to_bytes(8, "little")
        path.write_bytes(content)
        with open(path, "rb") as file:
            assert pages_fault(file) == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["tif", "png", "gif", "webp"])
def test_a_raster_of_pages_is_refused(tmp_path, kind, end):
    """What maps and tiles are read with refuses it by name, whatever its ending is."""
    (tmp_path / f"x.{end}").write_bytes(pages(kind, 2))
    with pytest.raises(ValueError, match=rf"x\.{end} holds several pictures \(pages or frames\)"):
        RasterReader(tmp_path / f"x.{end}")
