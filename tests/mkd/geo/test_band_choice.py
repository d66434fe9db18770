"""Which bands of a raster are data, and which pixels of it hold data."""

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from mkd.geo.band_choice import choose_bands, shown_bands
from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader

WHOLE = Window(0, 0, 6, 8)


def write(path, array, meanings=None, **options):
    """Write (bands, H, W) as a GeoTIFF."""
    count, height, width = array.shape
    size = {"count": count, "height": height, "width": width, "dtype": array.dtype}
    with rasterio.open(path, "w", driver="GTiff", **size, **options) as out:
        out.write(array)
        if meanings:
            out.colorinterp = meanings
    return path


def look(path, asked=None):
    """Return the choice, the pixels and where there is data."""
    with RasterReader(path) as reader:
        choice = choose_bands(str(path), reader.info, asked, "--bands")
        return choice, choice.pixels(reader, WHOLE), choice.valid(reader, WHOLE)


def noise(bands, dtype="uint8", low=1, high=200):
    """Make pixels (bands, 6, 8) without a 0."""
    return np.random.default_rng(0).integers(low, high, (bands, 6, 8)).astype(dtype)


def test_alpha_is_a_mask_unless_it_is_asked_for(tmp_path):
    """By default band 4 says where there is data; asked for, in any order, it is data and masks nothing."""
    array = noise(4)
    array[3, :3] = 0
    path = write(tmp_path / "a.tif", array)  # GDAL calls the fourth band of 8 bits alpha
    choice, pixels, valid = look(path)
    assert (choice.numbers, choice.masks, pixels.shape[2]) == ((1, 2, 3), (4,), 3)
    assert np.array_equal(valid, array[3] != 0)
    for asked in [(4, 1, 2), (1, 2, 3, 4)]:
        choice, pixels, valid = look(path, asked)
        assert (choice.masks, valid.all()) == ((), True)
        assert np.array_equal(pixels.transpose(2, 0, 1), array[[b - 1 for b in asked]])


def test_alpha_counts_beside_a_no_data_value(tmp_path):
    """A transparent pixel of any colour is missing, though it does not hold the no-data value."""
    array = noise(4)
    array[3, 0] = 0
    valid = look(write(tmp_path / "a.tif", array, nodata=0))[2]
    assert np.array_equal(valid, array[3] != 0)


def test_a_missing_value_in_one_band_is_a_missing_pixel_beyond_8_bits(tmp_path):
    """In 16 bits and float one band without data is enough; in 8 bits all must lack it, as GDAL says."""
    for dtype in ("uint16", "int16", "float32"):
        array = noise(5, dtype)
        array[1, 2, 3] = 0
        valid = look(write(tmp_path / f"{dtype}.tif", array, nodata=0))[2]
        assert np.argwhere(~valid).tolist() == [[2, 3]]
    array = noise(3)
    array[1, 2, 3] = 0
    assert look(write(tmp_path / "uint8.tif", array, nodata=0))[2].all()


def test_what_is_no_number_is_missing(tmp_path):
    """NaN and infinity are no data, declared or not."""
    array = noise(3, "float32")
    array[0, 0, 0], array[2, 1, 1] = np.nan, np.inf
    valid = look(write(tmp_path / "a.tif", array))[2]
    assert np.argwhere(~valid).tolist() == [[0, 0], [1, 1]]


def test_a_colour_table_gives_colours(tmp_path):
    """One band of indices becomes red, green and blue, in any order asked for; its no-data index is missing."""
    array = noise(1, low=0, high=4)
    path, table = tmp_path / "a.tif", {n: (60 * n, 255 - n, 7) for n in range(4)}
    with rasterio.open(path, "w", driver="GTiff", count=1, height=6, width=8, dtype="uint8", nodata=2) as out:
        out.write(array)
        out.write_colormap(1, table)
    choice, pixels, valid = look(path)
    assert choice.kind == (3, "uint8")
    wanted = np.array([table[n] for n in range(4)], np.uint8)[array[0]]
    assert np.array_equal(pixels[valid], wanted[valid])
    assert np.array_equal(valid, array[0] != 2)
    assert np.array_equal(look(path, (3, 1, 1))[1][valid], wanted[..., [2, 0, 0]][valid])
    with pytest.raises(ValueError, match=r"a colour table: its bands are 1, 2, 3 .*asks for 4"):
        look(path, (4,))


def test_inks_are_refused(tmp_path):
    """GDAL shows CMYK as RGBA; it is named."""
    path = write(tmp_path / "a.tif", noise(4), photometric="CMYK")
    with pytest.raises(ValueError, match="inks"):
        look(path)


def test_a_band_in_the_middle_may_be_alpha(tmp_path):
    """Alpha is a mask wherever it lies."""
    array = noise(5, "uint16")
    array[1, 0] = 0
    red, alpha, gray = ColorInterp.red, ColorInterp.alpha, ColorInterp.gray
    choice, _, valid = look(write(tmp_path / "a.tif", array, [red, alpha, gray, gray, gray]))
    assert choice.numbers == (1, 3, 4, 5)
    assert np.array_equal(valid, array[1] != 0)


@pytest.mark.parametrize(
    ("names", "count", "shown"),
    [
        ((), 5, (0, 1, 2)),
        (("", "", ""), 3, (0, 1, 2)),
        (("blue", "green", "red", "nir"), 4, (2, 1, 0)),
        (("NIR", "Red ", "GREEN", "Blue", "swir"), 5, (1, 2, 3)),
        (("red", "red", "green", "blue"), 4, (0, 1, 2)),
        (("nir", "red"), 2, (0, 0, 0)),
        (("gray",), 1, (0, 0, 0)),
    ],
)
def test_what_is_shown_as_red_green_and_blue(names, count, shown):
    """Bands by their names, where each is there once; else the first three, or one as grey."""
    assert shown_bands(names, count) == shown
