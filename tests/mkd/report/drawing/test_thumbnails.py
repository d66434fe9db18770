"""Shrunk rasters against a slow reference over whole arrays, with missing data and ragged edges."""

import math
import tracemalloc

import numpy as np
import pytest

from mkd.geo.grid import Window
from mkd.geo.raster import RasterWriter
from mkd.report.drawing.thumbnails import map_view


def raster(path, array, nodata):
    height, width, bands = array.shape
    with RasterWriter(path, height, width, bands, "uint8", nodata=nodata) as writer:
        writer.write(Window(0, 0, height, width), array)
    return path


def pair(folder, height, width, seed=0):
    """An orthomosaic (0 = no data) and a map (255 = no data) with the same hole."""
    rng = np.random.default_rng(seed)
    image = rng.integers(1, 256, (height, width, 3), dtype=np.uint8)
    labels = rng.integers(0, 5, (height, width), dtype=np.uint8)
    found = np.stack([labels, rng.integers(0, 255, (height, width), dtype=np.uint8)], axis=-1)
    hole = np.zeros((height, width), bool)
    hole[: height // 3, : width // 2] = True
    image[hole], found[hole] = 0, 255
    raster(folder / "in.tif", image, 0)
    raster(folder / "map.tif", found, 255)
    return image, found, hole


def slow(values, hole, step, fill):
    """Mean over the pixels with data of each square, pixel by pixel."""
    height, width = values.shape[:2]
    out = np.zeros((math.ceil(height / step), math.ceil(width / step), *values.shape[2:]), np.uint8)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            square = (slice(i * step, (i + 1) * step), slice(j * step, (j + 1) * step))
            known = values[square][~hole[square]]
            out[i, j] = np.rint(known.mean(axis=0)) if len(known) else fill
    return out


@pytest.mark.parametrize(
    ("height", "width", "side"), [(37, 53, 20), (300, 11, 100), (5, 700, 90), (40, 40, 900)]
)
def test_means_for_colours_and_middles_for_classes(tmp_path, height, width, side):
    """Colours and confidence are means over valid pixels, classes the middle pixel; missing stays missing."""
    image, found, hole = pair(tmp_path, height, width)
    step = math.ceil(max(height, width) / side)
    view = map_view(tmp_path / "in.tif", tmp_path / "map.tif", max_side=side, caption="c")
    np.testing.assert_array_equal(view.image, slow(image, hole, step, 255))
    np.testing.assert_array_equal(view.confidence, slow(found[..., 1], hole, step, 255))
    rows = [min(r + step // 2, height - 1) for r in range(0, height, step)]
    columns = [min(c + step // 2, width - 1) for c in range(0, width, step)]
    np.testing.assert_array_equal(view.classes, found[..., 0][np.ix_(rows, columns)])
    assert max(view.classes.shape) <= side
    assert view.caption == "c"


def test_the_map_alone(tmp_path):
    """Without an orthomosaic there is no image, and the rest is the same."""
    pair(tmp_path, 30, 20)
    alone, both = map_view(None, tmp_path / "map.tif"), map_view(tmp_path / "in.tif", tmp_path / "map.tif")
    assert alone.image is None
    np.testing.assert_array_equal(alone.classes, both.classes)
    np.testing.assert_array_equal(alone.confidence, both.confidence)


def test_memory_does_not_grow_with_height(tmp_path):
    """A raster eight times as tall, shrunk to the same number of rows, needs the same arrays at once."""

    def peak(height):
        pair(tmp_path, height, 64)
        tracemalloc.start()
        map_view(tmp_path / "in.tif", tmp_path / "map.tif", max_side=64)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(512)
    assert peak(8192) < 1.3 * peak(1024)


def test_wrong_files_are_named(tmp_path):
    """A one-band map, and a raster of another size than its map, are sentences."""
    pair(tmp_path, 20, 20)
    raster(tmp_path / "other.tif", np.ones((10, 20, 3), np.uint8), 0)
    with pytest.raises(ValueError, match=r"in.tif has 3 band\(s\), a map has 2"):
        map_view(None, tmp_path / "in.tif")
    with pytest.raises(ValueError, match="other.tif has 10 x 20 pixels, its map .*map.tif has 20 x 20"):
        map_view(tmp_path / "other.tif", tmp_path / "map.tif")
