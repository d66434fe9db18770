"""Polygons as QGIS saves them, burned onto an image's grid: by a slow loop, over CRS, layers, overlaps, windows."""

import numpy as np
import pyogrio
import pytest
import shapely
from pyproj import Transformer

from mkd.geo.grid import Window
from mkd.geo.raster_info import RasterInfo
from mkd.geo.vector.vector_labels import VectorLabels, VectorSource

CLASSES = ("field", "wood", "water")
H, W = 60, 80


def grid(crs="EPSG:32633", transform=(0.5, 0.0, 500000.0, 0.0, -0.5, 5000000.0)):
    return RasterInfo(H, W, 3, "uint8", crs, transform, None, None, (), (64, 64))


def ground(x0, y0, x1, y1):
    """A rectangle in pixels, on the ground."""
    return shapely.box(500000 + 0.5 * x0, 5000000 - 0.5 * y1, 500000 + 0.5 * x1, 5000000 - 0.5 * y0)


def save(path, shapes, values, crs="EPSG:32633", field="class", **more):
    columns = [np.array(values, dtype=object if isinstance(values[0], str) else None)]
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(shapes)), columns, [field], geometry_type="Unknown", crs=crs, **more
    )
    return str(path)


def labels(path, values=None, **more):
    return VectorLabels(VectorSource(path, **more), grid(), CLASSES, values or {})


WHOLE = Window(0, 0, H, W)


@pytest.mark.parametrize("ending", ["gpkg", "geojson", "fgb"])
def test_a_pixel_belongs_to_the_polygon_of_its_middle(tmp_path, ending):
    """Against a loop over pixel middles, for polygons that cut pixels; windows equal the whole."""
    rng = np.random.default_rng(0)
    shapes = [
        ground(
            *(lambda a, b: (*np.minimum(a, b), *np.maximum(a, b)))(
                rng.uniform(0, 60, 2), rng.uniform(0, 60, 2)
            )
        )
        for _ in range(6)
    ]
    crs = "EPSG:4326" if ending == "geojson" else "EPSG:32633"
    if ending == "geojson":
        way = Transformer.from_crs("EPSG:32633", crs, always_xy=True)
        saved = [
            shapely.transform(s, lambda xy: np.stack(way.transform(xy[:, 0], xy[:, 1]), 1)) for s in shapes
        ]
    else:
        saved = shapes
    names = [CLASSES[n % 3] for n in range(6)]
    if ending == "fgb":
        saved, names, shapes = saved[:1], names[:1], shapes[:1]  # this format sorts its features
    found = labels(save(tmp_path / f"m.{ending}", saved, names, crs)).read_ids(WHOLE)
    slow = np.full((H, W), 255)
    for shape, name in zip(shapes, names, strict=True):
        for y in range(H):
            for x in range(W):
                if shape.contains(shapely.Point(500000 + 0.5 * (x + 0.5), 5000000 - 0.5 * (y + 0.5))):
                    slow[y, x] = CLASSES.index(name)
    assert (found != slow).mean() < 0.001  # a middle on an edge may round either way after a change of CRS
    window = Window(7, 11, 20, 30)
    again = labels(str(tmp_path / f"m.{ending}")).read_ids(window)
    np.testing.assert_array_equal(again, found[7:27, 11:41])


def test_later_features_lie_on_top(tmp_path):
    """Order of overlap is the order of the file."""
    path = save(tmp_path / "m.gpkg", [ground(0, 0, 40, 40), ground(10, 10, 20, 20)], ["field", "wood"])
    found = labels(path).read_ids(WHOLE)
    assert (found[10:20, 10:20] == 1).all()
    assert found[5, 5] == 0
    assert found[50, 70] == 255


def test_a_rotated_grid(tmp_path):
    """A grid turned by 90 degrees burns the same ground."""
    path = save(tmp_path / "m.gpkg", [ground(10, 20, 30, 40)], ["wood"])
    turned = RasterInfo(
        W, H, 3, "uint8", "EPSG:32633", (0.0, 0.5, 500000.0, -0.5, 0.0, 5000000.0), None, None, (), (64, 64)
    )
    found = VectorLabels(VectorSource(path), turned, CLASSES, {}).read_ids(Window(0, 0, W, H))
    np.testing.assert_array_equal(found.T, labels(path).read_ids(WHOLE))


@pytest.mark.parametrize("values", [[0, 2], [0.0, 2.0], ["0", "2"], ["field", "water"], [" field ", "water"]])
def test_names_and_ids_are_classes(tmp_path, values):
    """Class names, ids as numbers and as text all name a class."""
    path = save(tmp_path / "m.gpkg", [ground(0, 0, 10, 10), ground(20, 20, 30, 30)], values)
    found = labels(path).read_ids(WHOLE)
    assert (found[2, 2], found[25, 25]) == (0, 2)


def test_unknown_values_are_listed_with_counts(tmp_path):
    """The message has the field, the values with their counts, the classes and a remedy that works."""
    path = save(tmp_path / "m.gpkg", [ground(0, 0, 10, 10)] * 3, ["forest", "forest", "bog"], field="land")
    with pytest.raises(
        ValueError, match=r"'land'.*'forest' \(2\), 'bog' \(1\); the classes are field, wood, water"
    ):
        labels(path, field="land")
    found = labels(path, field="land", values={"forest": 1, "bog": 255}).read_ids(WHOLE)
    assert set(np.unique(found)) == {255}
    found = labels(path, field="land", values={"forest": 1, "bog": 2}).read_ids(WHOLE)
    assert found[5, 5] == 2


def test_an_empty_value_can_be_mapped(tmp_path):
    """A feature whose field is empty is refused under the name (empty), and that name can be mapped."""
    path = save(tmp_path / "m.gpkg", [ground(0, 0, 10, 10), ground(20, 20, 30, 30)], ["wood", None])
    with pytest.raises(ValueError, match=r"'\(empty\)' \(1\)"):
        labels(path)
    assert labels(path, values={"(empty)": 2}).read_ids(WHOLE)[25, 25] == 2


def test_outside_and_extent(tmp_path):
    """Outside is ignored or a class, but never beyond the ground that was looked at."""
    path = save(tmp_path / "m.gpkg", [ground(0, 0, 10, 10)], ["wood"])
    extent = save(tmp_path / "e.gpkg", [ground(0, 0, 40, 60)], ["x"])
    assert labels(path).read_ids(WHOLE)[50, 70] == 255
    assert labels(path, outside=0).read_ids(WHOLE)[50, 70] == 0
    found = labels(path, outside=0, extent=extent).read_ids(WHOLE)
    assert (found[5, 5], found[30, 30], found[30, 50]) == (1, 0, 255)


def test_points_and_lines_need_a_buffer(tmp_path):
    """Without --buffer they are refused; with it a point is a disc of that radius in metres."""
    point = shapely.Point(500000 + 20, 5000000 - 15)  # pixel 40, 30
    path = save(tmp_path / "m.gpkg", [point], ["wood"])
    with pytest.raises(ValueError, match="1 points or lines, which cover no pixel: give --buffer"):
        labels(path)
    found = labels(path, buffer=3.0).read_ids(WHOLE)
    assert (found == 1).sum() == pytest.approx(np.pi * 6**2, rel=0.06)
    assert found[30, 40] == 1


def test_layers_and_fields_are_named(tmp_path):
    """Several layers, a wrong layer, a wrong field, a missing file: each a sentence with what there is."""
    path = save(tmp_path / "m.gpkg", [ground(0, 0, 10, 10)], ["wood"], layer="a")
    save(path, [ground(0, 0, 10, 10)], ["field"], layer="b", append=True)
    with pytest.raises(ValueError, match="2 layers with geometry \\(a, b\\): name one, with --layer or as"):
        labels(path)
    assert labels(path, layer="b").read_ids(WHOLE)[5, 5] == 0
    assert labels(f"{path}|layername=b").read_ids(WHOLE)[5, 5] == 0  # as QGIS copies a path
    with pytest.raises(ValueError, match="no layer 'c'; it has a, b"):
        labels(path, layer="c")
    with pytest.raises(ValueError, match="no field 'kind' in its layer 'a'; it has class"):
        labels(path, layer="a", field="kind")
    with pytest.raises(ValueError, match="no vector file at"):
        labels(str(tmp_path / "none.gpkg"))
    (tmp_path / "bad.gpkg").write_text("no geopackage")
    with pytest.raises(ValueError, match="cannot be read as a vector file"):
        labels(str(tmp_path / "bad.gpkg"))


def test_without_a_place_nothing_is_burned(tmp_path):
    """An image without CRS, or a layer without one, is refused."""
    path = save(tmp_path / "m.gpkg", [ground(0, 0, 10, 10)], ["wood"])
    with pytest.raises(ValueError, match="has no place on Earth"):
        VectorLabels(VectorSource(path), grid(None, None), CLASSES, {})
    path = save(tmp_path / "n.fgb", [ground(0, 0, 10, 10)], ["wood"], crs=None)
    with pytest.raises(ValueError, match="has no CRS: set it in your GIS"):
        labels(path)


def test_empty_and_broken_shapes(tmp_path):
    """A feature without geometry is skipped, a bow-tie is burned."""
    tie = shapely.Polygon([(500000, 5000000), (500020, 4999980), (500020, 5000000), (500000, 4999980)])
    path = save(tmp_path / "m.gpkg", [shapely.Polygon(), tie], ["wood", "water"])
    found = labels(path).read_ids(WHOLE)
    assert set(np.unique(found)) == {2, 255}
