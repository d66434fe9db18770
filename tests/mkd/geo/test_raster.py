"""GeoTIFFs by windows: what is written is what is read, and nothing half written is left."""

import io
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from mkd.geo.grid import Window, covering_windows
from mkd.geo.raster import DamagedRaster, RasterReader, RasterWriter, decode_tiff, encode_tiff
from mkd.geo.raster_info import grid_difference

PLACE = (0.5, 0.0, 500000.0, 0.0, -0.5, 2800000.0)


def write(path, array, size=100, **options):
    """Write an array window by window."""
    height, width = array.shape[:2]
    count = array.shape[2] if array.ndim == 3 else 1
    with RasterWriter(path, height, width, count, str(array.dtype), **options) as raster:
        for window in covering_windows(height, width, size, 0):
            row, col, tall, wide = window
            raster.write(window, array[row : row + tall, col : col + wide])


def write_wrong(path):
    """Write one good window, then one of a wrong shape."""
    with RasterWriter(path, 300, 300, 1, "uint8") as raster:
        raster.write(Window(0, 0, 100, 100), np.ones((100, 100), np.uint8))
        raster.write(Window(0, 100, 100, 100), np.ones((100, 99), np.uint8))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_windows_read_back_what_was_written(tmp_path, dtype):
    """Pixels, size, type, CRS and transform survive, for any window, and any choice of bands."""
    pixels = np.random.default_rng(0).integers(0, 200, (300, 450, 3)).astype(dtype)
    write(tmp_path / "a.tif", pixels, crs="EPSG:32648", transform=PLACE)
    with RasterReader(tmp_path / "a.tif") as raster:
        info = raster.info
        assert (info.height, info.width, info.bands, info.dtype) == (300, 450, 3, dtype)
        assert info.transform == PLACE
        assert info.crs is not None
        assert "32648" in info.crs
        window = Window(190, 230, 77, 101)
        assert np.array_equal(raster.read(window), pixels[190:267, 230:331])
        assert np.array_equal(raster.read(window, [3, 1]), pixels[190:267, 230:331][..., [2, 0]])
        assert raster.valid(window).all()


def test_no_data_value_and_alpha_band_mark_holes(tmp_path):
    """`valid` is False where all bands hold the no-data value, or where alpha is 0."""
    pixels = np.full((60, 60, 3), 7, np.uint8)
    pixels[:10] = 0
    write(tmp_path / "nodata.tif", pixels, nodata=0)
    alpha = np.full((60, 60, 4), 255, np.uint8)
    alpha[:10, :, 3] = 0
    write(tmp_path / "alpha.tif", alpha)
    for name in ("nodata.tif", "alpha.tif"):
        with RasterReader(tmp_path / name) as raster:
            valid = raster.valid(Window(5, 0, 10, 60))
        assert valid.tolist() == [[row >= 5] * 60 for row in range(10)]


@pytest.mark.parametrize("bands", [1, 2])
def test_colour_table_of_a_class_map(tmp_path, bands):
    """A class map keeps its colours, beside a confidence band too, and low confidence is no hole."""
    pixels = np.zeros((20, 20, bands), np.uint8)
    pixels[:, 10:, 0] = 1
    write(tmp_path / "map.tif", pixels, colormap={0: (10, 20, 30), 1: (200, 100, 0)})
    with RasterReader(tmp_path / "map.tif") as raster:
        assert raster.info.colormap is not None
        assert raster.info.colormap[0][:3] == (10, 20, 30)
        assert raster.info.colormap[1][:3] == (200, 100, 0)
        assert np.array_equal(raster.read(Window(0, 0, 20, 20)), pixels)
        assert raster.valid(Window(0, 0, 20, 20)).all()


def test_colour_table_where_tiff_allows_none(tmp_path):
    """Three bands or 16 bits have no colour table: said at once."""
    with pytest.raises(ValueError, match="colour table needs uint8"):
        RasterWriter(tmp_path / "a.tif", 5, 5, 3, "uint8", colormap={0: (1, 2, 3)})


def test_an_error_leaves_nothing_behind(tmp_path):
    """When writing stops half-way, no new file and no draft is there, and an old file stays as it was."""
    (tmp_path / "a.tif").write_bytes(b"old")
    with pytest.raises(ValueError, match="needs|takes"):
        write_wrong(tmp_path / "a.tif")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.tif", b"old")]


def test_errors_name_the_file(tmp_path):
    """A missing file, a file that is no raster and a window outside are told in a sentence with the path."""
    (tmp_path / "text.tif").write_text("no raster")
    write(tmp_path / "a.tif", np.zeros((10, 10), np.uint8))
    with pytest.raises(ValueError, match=r"no raster at .*missing\.tif"):
        RasterReader(tmp_path / "missing.tif")
    with pytest.raises(ValueError, match=r"text\.tif is no raster that GDAL can read: give a GeoTIFF"):
        RasterReader(tmp_path / "text.tif")
    with RasterReader(tmp_path / "a.tif") as raster:
        with pytest.raises(ValueError, match=r"outside .*a\.tif \(10 x 10"):
            raster.read(Window(5, 5, 6, 5))
        with pytest.raises(ValueError, match=r"bands 1\.\.1, asked for \[2\]"):
            raster.read(Window(0, 0, 5, 5), [2])
    with pytest.raises(ValueError, match=r"cannot write the raster .*nowhere"):
        RasterWriter(tmp_path / "nowhere" / "a.tif", 10, 10, 1, "uint8")


def test_a_truncated_raster_is_told(tmp_path):
    """A file cut short is an error when its missing part is read, not a picture of zeros."""
    write(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 255, (600, 600), np.uint8))
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "b.tif").write_bytes(data[: len(data) // 2])
    with (
        pytest.raises(
            ValueError, match=r"cannot read the raster .*b\.tif \(TIFF.*\): is it truncated\? copy it"
        ),
        RasterReader(tmp_path / "b.tif") as raster,
    ):
        raster.read(Window(400, 400, 200, 200))


def test_a_disk_that_fills_up_leaves_no_file(tmp_path):
    """When the file cannot grow, at whatever moment, there is an error with the path, and no broken map."""
    code = f"""
import resource, signal
import numpy as np
from mkd.geo.grid import Window
from mkd.geo.raster import RasterWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    with RasterWriter("{tmp_path}/a.tif", 600, 600, 1, "uint8") as raster:
        noise = np.random.default_rng(0).integers(0, 255, (600, 600), np.uint8)
        raster.write(Window(0, 0, 600, 600), noise)
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"cannot write the raster {tmp_path}/a.tif")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((20, 21), {"crs": "EPSG:32648", "transform": PLACE}, "size 20 x 20 and 20 x 21"),
        ((20, 20), {"crs": "EPSG:32648", "transform": (*PLACE[:2], 500000.5, *PLACE[3:])}, "transform"),
        ((20, 20), {"crs": "EPSG:32647", "transform": PLACE}, "CRS"),
        ((20, 20), {}, None),
        ((20, 20), {"crs": "EPSG:32648", "transform": (*PLACE[:2], 500000.0001, *PLACE[3:])}, None),
    ],
)
def test_rasters_that_do_not_lie_pixel_on_pixel(tmp_path, shape, options, words):
    """Another size, place or CRS is named; a missing place or a hair's breadth is no difference."""
    write(tmp_path / "a.tif", np.zeros((20, 20), np.uint8), crs="EPSG:32648", transform=PLACE)
    write(tmp_path / "b.tif", np.zeros(shape, np.uint8), **options)
    with RasterReader(tmp_path / "a.tif") as a, RasterReader(tmp_path / "b.tif") as b:
        difference = grid_difference(a.info, b.info)
    assert difference is None if words is None else words in str(difference)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 13])
def test_tiffs_in_memory_lose_nothing(dtype, bands):
    """Any bands and bits come back as they were, extremes too; the bytes are the same each time."""
    pixels = np.random.default_rng(bands).integers(
        0, np.iinfo(dtype).max, (37, 53, bands), dtype, endpoint=True
    )
    data = encode_tiff(pixels)
    again = decode_tiff(data)
    assert again.dtype == dtype
    assert again.flags.c_contiguous
    assert np.array_equal(again, pixels)
    assert encode_tiff(pixels) == data


@pytest.mark.parametrize("cut", [0, 4, 100, -1000])
def test_a_tiff_in_memory_that_is_not_whole(cut):
    """Bytes that are missing are an error, not pixels of zeros."""
    data = encode_tiff(np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8))
    with pytest.raises(DamagedRaster, match="cannot read the raster in memory"):
        decode_tiff(data[:cut])


class Store:
    """Files by name, as a remote folder holds them; may go away."""

    def __init__(self, files):
        self.files, self.asked, self.gone = files, [], False

    def __call__(self, name):
        self.asked.append(name)
        if self.gone:
            raise ValueError("the store is gone, mend it")
        return io.BytesIO(self.files[name]) if name in self.files else self.missing(name)

    def missing(self, name):
        raise FileNotFoundError(name)


class Failing(io.BytesIO):
    """A file that stops to answer when told so."""

    gone = False

    def read(self, size=-1):
        """Read, or fail."""
        if self.gone:
            raise ValueError("no answer for 300 s, check the network")
        return super().read(size)


def test_rasters_from_elsewhere(tmp_path):
    """An opener gives the raster and the files beside it, by name; two of one name are kept apart."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    write(tmp_path / "a.tif", pixels)
    write(tmp_path / "b.tif", 255 - pixels)
    data, other = ((tmp_path / name).read_bytes() for name in ("a.tif", "b.tif"))
    beside = b"<PAMDataset><GeoTransform>100, 0.5, 0, 200, 0, -0.5</GeoTransform></PAMDataset>"
    store = Store({"a.tif": data, "a.tif.aux.xml": beside})
    window = Window(10, 20, 30, 40)
    with (
        RasterReader("s3://bucket/one/a.tif", store) as one,
        RasterReader("s3://bucket/two/a.tif", Store({"a.tif": other})) as two,
    ):
        assert one.info.transform == (0.5, 0, 100, 0, -0.5, 200)
        assert two.info.transform is None
        assert np.array_equal(one.read(window), pixels[10:40, 20:60])
        assert np.array_equal(two.read(window), 255 - pixels[10:40, 20:60])
    assert all("/" not in name for name in store.asked)


def test_a_place_that_fails_is_no_damaged_raster(tmp_path, capfd):
    """What the place of the file says arrives as it is, while opening and while reading, and only once."""
    write(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8))
    data = (tmp_path / "a.tif").read_bytes()
    store = Store({"a.tif": data})
    store.gone = True
    with pytest.raises(ValueError, match="^the store is gone, mend it$"):
        RasterReader("s3://bucket/a.tif", store)
    files = [Failing(data) for _ in range(9)]  # each is opened once
    unopened = iter(files)
    with RasterReader(
        "s3://bucket/a.tif", lambda name: next(unopened) if name == "a.tif" else store.missing(name)
    ) as reader:
        reader.read(Window(0, 0, 10, 10))
        for file in files:
            file.gone = True
        with pytest.raises(ValueError, match=r"^no answer for 300 s, check the network$") as caught:
            reader.read(Window(500, 500, 50, 50))
    assert not isinstance(caught.value, DamagedRaster)
    assert capfd.readouterr().err == ""


def test_alpha_counts_beside_more_than_three_bands(tmp_path):
    """GDAL heeds alpha only in files of 2 or 4 bands; multispectral mosaics with alpha have holes, too."""
    pixels = np.full((5, 40, 40), 9, np.uint16)
    pixels[4, :10] = 0
    profile = {
        "driver": "GTiff",
        "height": 40,
        "width": 40,
        "count": 5,
        "dtype": "uint16",
        "crs": "EPSG:32648",
    }
    profile["transform"] = rasterio.Affine(*PLACE)
    with rasterio.open(tmp_path / "a.tif", "w", **profile) as data:
        data.colorinterp = [ColorInterp.undefined] * 4 + [ColorInterp.alpha]
        data.write(pixels)
    with RasterReader(tmp_path / "a.tif") as raster:
        assert raster.info.alpha == (5,)
        assert raster.valid(Window(5, 0, 10, 40)).tolist() == [[row >= 5] * 40 for row in range(10)]
