"""Headers of pictures: orientation, for every orientation and format."""

import io
import zlib

import numpy as np
import pytest
import rasterio.shutil
from PIL import Image

from mkd.geo.grid import Window
from mkd.geo.picture_header import (
    picture_orientation,
    read_orientation,
    stored_window,
    turn_upright,
)
from mkd.geo.raster import RasterReader

UNDO = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}  # which orientation turns upright pixels back
SEEN = np.random.default_rng(0).integers(0, 256, (12, 17, 3), np.uint8)


def turned(orientation, kind, pixels=SEEN):
    """Encode pixels so that they are seen upright only after a turn."""
    stored, buffer, exif = turn_upright(pixels, UNDO[orientation]), io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    extra = {"tiffinfo": {274: orientation}} if kind == "TIFF" else {"exif": exif}
    Image.fromarray(stored).save(buffer, kind, **extra, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_read_from_each_format(kind, orientation):
    """The header tells the orientation; Pillow's own viewer turns the picture the same way."""
    data = turned(orientation, kind)
    assert read_orientation(io.BytesIO(data)) == orientation
    if kind in ("PNG", "WEBP"):
        assert (turn_upright(np.asarray(Image.open(io.BytesIO(data))), orientation) == SEEN).all()


def test_a_png_may_tell_behind_its_pixels():
    """An eXIf chunk after the pixels counts; without one, and with values outside 1..8, pixels are as stored."""
    data = turned(6, "PNG")
    at = data.index(b"eXIf") - 4
    chunk = data[at : at + 12 + int.from_bytes(data[at : at + 4], "big")]
    end = data.index(b"IEND") - 4
    behind = data[:at] + data[at + len(chunk) : end] + chunk + data[end:]
    assert picture_orientation(behind, "x") == 6
    assert picture_orientation(data[:at] + data[at + len(chunk) :], "x") == 1
    entry = b"\x12\x01\x03\x00\x01\x00\x00\x00"  # tag 274, one short
    strange = turned(6, "TIFF").replace(entry + b"\x06", entry + b"\x09")
    assert strange != turned(6, "TIFF")
    assert picture_orientation(strange, "x") == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_rasters_are_read_upright_window_by_window(tmp_path, orientation, kind):
    """Size, pixels and mask of a window are those of the picture as it is seen; GDAL alone would not turn it."""
    path = tmp_path / "x.any"
    path.write_bytes(turned(orientation, kind))
    with RasterReader(path) as reader:
        assert (reader.info.height, reader.info.width) == (12, 17)
        for window in (Window(0, 0, 12, 17), Window(2, 5, 4, 9), Window(11, 16, 1, 1)):
            row, col, height, width = window
            assert (reader.read(window) == SEEN[row : row + height, col : col + width]).all()
            assert reader.valid(window).shape == (height, width)


def test_stored_windows_lie_inside():
    """A window of the upright picture maps to one of as many stored pixels."""
    assert stored_window(Window(1, 2, 3, 4), 6, 20, 10) == Window(14, 1, 4, 3)
    assert stored_window(Window(1, 2, 3, 4), 3, 20, 10) == Window(16, 4, 3, 4)


def test_a_place_on_earth_and_a_turn_contradict(tmp_path):
    """A turned GeoTIFF is refused by name, and the copy that the message advises is taken."""
    place = {33550: (1.0, 1.0, 0.0), 33922: (0.0, 0.0, 0.0, 5e5, 5e6, 0.0)}
    buffer = io.BytesIO()
    Image.fromarray(SEEN).save(buffer, "TIFF", tiffinfo={274: 6, **place})
    data = buffer.getvalue()
    with pytest.raises(ValueError, match="^mine.tif has a place on Earth and orientation 6"):
        picture_orientation(data, "mine.tif")
    (tmp_path / "mine.tif").write_bytes(data)
    with pytest.raises(ValueError, match="mine.tif has a place on Earth and orientation 6"):
        RasterReader(tmp_path / "mine.tif")
    rasterio.shutil.copy(
        tmp_path / "mine.tif", tmp_path / "copy.tif", driver="GTiff"
    )  # gdal_translate IN OUT
    with RasterReader(tmp_path / "copy.tif") as reader:
        assert (reader.read(Window(0, 0, 12, 17)) == SEEN).all()


def test_a_damaged_header_says_nothing():
    """A TIFF that is cut off, or points nowhere, has no tags; the error comes from who decodes it."""
    data = turned(6, "TIFF")
    for cut in (b"II*\0", data[:12], b"II*\0\xff\xff\xff\xff", data[: data.index(b"\x12\x01\x03\x00") + 4]):
        assert read_orientation(io.BytesIO(cut)) == 1


def xmp_chunk(orientation, attribute):
    """Make a PNG's chunk of XMP, which states the orientation as an attribute or as an element."""
    name = "tiff:Orientation"
    said = f'{name}="{orientation}"/>' if attribute else f"><{name}>{orientation}</{name}>"
    content = b"XML:com.adobe.xmp\0\0\0\0\0" + f"<rdf:Description {said}".encode()
    body = b"iTXt" + content
    return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


@pytest.mark.parametrize("attribute", [True, False])
@pytest.mark.parametrize("place", [33, -12])  # behind IHDR, and before IEND
def test_xmp_of_a_png_turns_it_unless_exif_says_otherwise(attribute, place):
    """Viewers heed tiff:Orientation in XMP where no EXIF data is; a value outside 1..8 says nothing."""
    exif, buffer = turned(6, "PNG"), io.BytesIO()
    Image.fromarray(SEEN).save(buffer, "PNG")
    plain = buffer.getvalue()
    cut = place % len(plain)
    for orientation, found in ((6, 6), (3, 3), (9, 1)):
        data = plain[:cut] + xmp_chunk(orientation, attribute) + plain[cut:]
        assert read_orientation(io.BytesIO(data)) == found
    assert read_orientation(io.BytesIO(exif[:33] + xmp_chunk(3, attribute) + exif[33:])) == 6
