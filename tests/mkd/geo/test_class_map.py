"""Class maps as other programs read them: GDAL's own tools through rasterio, and rio-cogeo's check."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rio_cogeo.cogeo import cog_validate

from mkd.geo.class_map import BLOCK, ClassMapWriter, Legend, overview_factors
from mkd.geo.grid import Window
from mkd.geo.place.control_points import ControlPoints

NAMES = ("background", "path & <road>", "洱海")
LEGEND = Legend(NAMES, ((0, 0, 0), (250, 250, 250), (10, 20, 230)), {"MODEL": "runs/ssl/model & more"})
PLACE = {"crs": "EPSG:32633", "transform": (0.5, 0.0, 500000.0, 0.0, -0.5, 5000000.0)}


def pixels(height, width, seed=0):
    rng = np.random.default_rng(seed)
    found = np.stack([rng.integers(0, 3, (height, width)), rng.integers(0, 255, (height, width))], -1)
    found[:7, :5] = 255
    return found.astype(np.uint8)


def write(path, array, legend=LEGEND, rows=64, **place):
    height, width = array.shape[:2]
    with ClassMapWriter(path, height, width, legend, **(place or PLACE)) as writer:
        for row in range(0, height, rows):
            part = array[row : row + rows]
            writer.write(Window(row, 0, len(part), width), part)


@pytest.mark.parametrize("size", [(40, 30), (BLOCK, BLOCK), (BLOCK + 1, 700), (1400, 1100)])
def test_a_map_is_a_valid_cog_with_the_pixels_given(tmp_path, size):
    """rio-cogeo finds no fault; bands, place, colours, no-data and tags are those given, band 2 is no alpha."""
    array = pixels(*size)
    write(tmp_path / "map.tif", array)
    valid, errors, warnings = cog_validate(tmp_path / "map.tif")
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(tmp_path / "map.tif") as data:
        np.testing.assert_array_equal(data.read().transpose(1, 2, 0), array)
        assert data.crs.to_epsg() == 32633
        assert tuple(data.transform)[:6] == PLACE["transform"]
        assert data.colorinterp == (ColorInterp.palette, ColorInterp.gray)
        assert data.nodata == 255
        assert [data.colormap(1)[n][:3] for n in range(3)] == list(LEGEND.palette)
        assert json.loads(data.tags()["CLASSES"]) == list(NAMES)
        assert data.tags()["MODEL"] == "runs/ssl/model & more"
        assert data.overviews(1) == data.overviews(2) == overview_factors(*size)


def test_overviews_hold_the_commonest_class_and_the_mean_confidence(tmp_path):
    """In each 2 x 2 square with data: the class is one of the commonest, the confidence the mean; slow loop."""
    array = pixels(700, 600)
    write(tmp_path / "map.tif", array)
    with rasterio.open(tmp_path / "map.tif", overview_level=0) as data:
        classes, confidence = data.read()
    for y, x in np.random.default_rng(1).integers(0, 300, (200, 2)):
        square = array[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].reshape(4, 2).astype(int)
        square = square[square[:, 0] != 255]
        if len(square) == 0:
            assert classes[y, x] == 255
            continue
        counts = np.bincount(square[:, 0])
        assert counts[classes[y, x]] == counts.max()
        assert abs(confidence[y, x] - square[:, 1].mean()) <= 1


def test_the_names_file_is_dense_from_zero(tmp_path):
    """NAME.tif.aux.xml: category names and attribute table in the order of ids, special characters whole."""
    write(tmp_path / "map.tif", pixels(30, 30))
    root = ET.parse(tmp_path / "map.tif.aux.xml").getroot()
    assert [c.text for c in root.iter("Category")] == list(NAMES)
    table = next(root.iter("GDALRasterAttributeTable"))
    rows = [[f.text for f in row] for row in table.iter("Row")]
    assert rows == [[str(n), name, *map(str, LEGEND.palette[n])] for n, name in enumerate(NAMES)]
    assert table.get("tableType") == "thematic"


def test_gdal_takes_names_and_table_from_the_file_beside(tmp_path):
    """GDAL carries category names and table into the names file of a copy: it has read them."""
    import rasterio.shutil

    write(tmp_path / "map.tif", pixels(30, 30))
    rasterio.shutil.copy(tmp_path / "map.tif", tmp_path / "copy.tif", driver="GTiff")
    root = ET.parse(tmp_path / "copy.tif.aux.xml").getroot()
    assert [c.text for c in root.iter("Category")] == list(NAMES)
    assert len(list(root.iter("Row"))) == len(NAMES)


def test_an_error_leaves_nothing(tmp_path):
    """A writer left by an error leaves the old map, and no file of its own."""
    write(tmp_path / "map.tif", pixels(20, 20))
    before = (tmp_path / "map.tif").read_bytes()
    writer = ClassMapWriter(tmp_path / "map.tif", 20, 20, LEGEND)
    writer.write(Window(0, 0, 20, 20), pixels(20, 20, seed=5))
    writer.__exit__(RuntimeError, RuntimeError(), None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.qml", "map.tif", "map.tif.aux.xml"]
    assert (tmp_path / "map.tif").read_bytes() == before


def test_the_parts_of_a_killed_run_are_removed(tmp_path):
    """A folder of parts that a killed writer left is gone after the next map."""
    (tmp_path / ".tmp-map.tif.parts").mkdir()
    (tmp_path / ".tmp-map.tif.parts" / "classes.tif").write_text("half")
    write(tmp_path / "map.tif", pixels(20, 20))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.qml", "map.tif", "map.tif.aux.xml"]


def test_a_map_without_a_place(tmp_path):
    """A scene without CRS and transform gives a map without them."""
    write(tmp_path / "map.tif", pixels(20, 20), crs=None)
    with rasterio.open(tmp_path / "map.tif") as data:
        assert data.crs is None
        assert data.transform.is_identity


def test_pixels_of_another_shape_are_refused(tmp_path):
    """The message holds the window and both shapes."""
    with pytest.raises(ValueError, match=r"takes \(10, 20, 2\) values, found \(9, 20, 2\)"):
        with ClassMapWriter(tmp_path / "map.tif", 10, 20, LEGEND) as writer:
            writer.write(Window(0, 0, 10, 20), pixels(9, 20))


def test_control_points_and_rpcs_are_carried(tmp_path):
    """A scene that is placed by control points, or by RPCs, gives a map with the same."""
    points = (
        (0.0, 0.0, 500000.0, 5000000.0, 0.0),
        (0.0, 20.0, 500010.0, 5000000.5, 0.0),
        (20.0, 0.0, 5e5, 4999990.0, 1.5),
    )
    wkt = rasterio.crs.CRS.from_epsg(32633).to_wkt()
    numbers = " ".join(["0.5"] * 20)
    rpc = {
        "HEIGHT_OFF": "1",
        "HEIGHT_SCALE": "2",
        "LAT_OFF": "3",
        "LAT_SCALE": "4",
        "LINE_OFF": "5",
        "LINE_SCALE": "6",
    }
    rpc |= {
        "LONG_OFF": "7",
        "LONG_SCALE": "8",
        "SAMP_OFF": "9",
        "SAMP_SCALE": "10",
        "LINE_NUM_COEFF": numbers,
    }
    rpc |= {"LINE_DEN_COEFF": numbers, "SAMP_NUM_COEFF": numbers, "SAMP_DEN_COEFF": numbers}
    for name, control in (("a", ControlPoints(points, wkt)), ("b", ControlPoints(rpc=tuple(rpc.items())))):
        write(tmp_path / f"{name}.tif", pixels(20, 20), control=control)
    with rasterio.open(tmp_path / "a.tif") as data:
        found, crs = data.gcps
        assert [(p.row, p.col, p.x, p.y, p.z) for p in found] == list(points)
        assert crs.to_epsg() == 32633
    with rasterio.open(tmp_path / "b.tif") as data:
        assert data.rpcs.lat_off == 3
        assert data.rpcs.samp_den_coeff == [0.5] * 20
