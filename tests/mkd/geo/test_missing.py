"""Which pixels are missing: values below the mask, single bands, no-data values of some bands only."""

import numpy as np
import pytest
import rasterio

from mkd.geo.band_choice import choose_bands
from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader

WHOLE = Window(0, 0, 16, 16)
FILL = {"uint16": 65535, "int16": -32768, "float32": -9999.0}


def write(path, pixels, **profile):
    """Write (bands, 16, 16) as a TIFF."""
    size = {"count": len(pixels), "height": 16, "width": 16, "dtype": str(pixels.dtype)}
    with rasterio.open(path, "w", driver="GTiff", **size, **profile) as data:
        data.write(pixels)


def seen(path):
    """Return pixels and where they are valid, of all bands."""
    with RasterReader(path) as reader:
        choice = choose_bands(str(path), reader.info, None, "bands=")
        return choice.pixels(reader, WHOLE), choice.valid(reader, WHOLE)


@pytest.mark.parametrize("dtype", FILL)
@pytest.mark.parametrize("band", [0, 1, 2])
@pytest.mark.parametrize("place", [np.s_[5:9, 6:11], np.s_[:, 0], np.s_[15, 3:], np.s_[0, 0]])
def test_a_pixel_missing_in_one_band_is_missing(tmp_path, dtype, band, place):
    """No-data in one band alone, at the edge too, hides the pixel; in float32 also NaN and infinity do."""
    pixels = np.random.default_rng(0).integers(1, 1000, (3, 16, 16)).astype(dtype)
    hole = np.zeros((16, 16), bool)
    hole[place] = True
    values = [FILL[dtype], *([np.nan, np.inf] if dtype == "float32" else [])]
    for value in values:
        pixels[band, hole] = value
        write(tmp_path / "x.tif", pixels, nodata=FILL[dtype])
        assert np.array_equal(seen(tmp_path / "x.tif")[1], ~hole)


@pytest.mark.parametrize("band", [1, 2, 3])
def test_a_no_data_value_of_one_band_of_a_vrt_counts(tmp_path, band):
    """A VRT may give a single band a no-data value: pixels that hold it there are missing, the first band or not."""
    pixels = np.random.default_rng(1).integers(1, 1000, (3, 16, 16)).astype(np.uint16)
    pixels[band - 1, 2:4] = 7777
    pixels[band % 3, 9:11] = 7777  # of a band without a no-data value: a value like others
    write(tmp_path / "x.tif", pixels)
    bands = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{n}">{"<NoDataValue>7777</NoDataValue>" if n == band else ""}'
        f'<SimpleSource><SourceFilename relativeToVRT="1">x.tif</SourceFilename><SourceBand>{n}</SourceBand>'
        "</SimpleSource></VRTRasterBand>"
        for n in (1, 2, 3)
    )
    (tmp_path / "v.vrt").write_text(f'<VRTDataset rasterXSize="16" rasterYSize="16">{bands}</VRTDataset>')
    hole = np.zeros((16, 16), bool)
    hole[2:4] = True
    assert np.array_equal(seen(tmp_path / "v.vrt")[1], ~hole)
