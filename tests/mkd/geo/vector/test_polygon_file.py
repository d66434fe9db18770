"""GeoPackages of polygons as GDAL reads them: fields, CRS, areas, chunks, and the style that QGIS looks for."""

import sqlite3
import xml.etree.ElementTree as ET

import numpy as np
import pyogrio
import pytest
import shapely

from mkd.geo.class_map import Legend
from mkd.geo.raster_info import RasterInfo
from mkd.geo.vector import polygon_file
from mkd.geo.vector.polygon_file import LAYER, write_polygons
from mkd.geo.vector.polygons import ClassPolygon

LEGEND = Legend(("field", 'wood "old" & new'), ((200, 180, 60), (10, 90, 30)))


def info(crs="EPSG:32633", transform=(0.5, 0.0, 500000.0, 0.0, -0.5, 5000000.0)):
    return RasterInfo(40, 40, 2, "uint8", crs, transform, 255.0, None, (), (40, 40))


def squares(count):
    return [ClassPolygon(n % 2, shapely.box(n, 0, n + 1, 4), 4, 4 * 127.0) for n in range(count)]


def read(path):
    meta, _, geometry, fields = pyogrio.raw.read(path, layer=LAYER)
    return meta, shapely.from_wkb(geometry), dict(zip(meta["fields"], fields, strict=True))


def test_fields_crs_and_ground(tmp_path):
    """Names, areas in m2, pixels and confidence in 0..1 stand beside geometries in the map's CRS."""
    assert write_polygons(squares(3), tmp_path / "m.gpkg", LEGEND, info()) == 3
    meta, shapes, fields = read(tmp_path / "m.gpkg")
    assert meta["crs"] == "EPSG:32633"
    assert fields["class_id"].tolist() == [0, 1, 0]
    assert fields["class"].tolist() == [LEGEND.names[0], LEGEND.names[1], LEGEND.names[0]]
    assert fields["area_m2"].tolist() == [1.0, 1.0, 1.0]
    assert fields["pixels"].tolist() == [4, 4, 4]
    assert fields["confidence"] == pytest.approx([127 / 255] * 3)
    assert shapes[1].bounds == (500000.5, 4999998.0, 500001.0, 5000000.0)


def test_chunks_are_appended(tmp_path, monkeypatch):
    """More polygons than one chunk: all are there, in order."""
    monkeypatch.setattr(polygon_file, "_CHUNK", 4)
    assert write_polygons(squares(10), tmp_path / "m.gpkg", LEGEND, info()) == 10
    _, shapes, _ = read(tmp_path / "m.gpkg")
    assert [s.bounds[0] for s in shapes] == [500000 + 0.5 * n for n in range(10)]


def test_no_polygon_is_an_empty_layer(tmp_path):
    """A map without data gives a layer without features, with its fields."""
    assert write_polygons([], tmp_path / "m.gpkg", LEGEND, info()) == 0
    assert list(read(tmp_path / "m.gpkg")[2]) == ["class_id", "class", "area_m2", "pixels", "confidence"]


def test_without_crs_areas_are_empty(tmp_path):
    """No CRS: areas are null, rows run downwards."""
    write_polygons(squares(1), tmp_path / "m.gpkg", LEGEND, info(None, None))
    _, shapes, fields = read(tmp_path / "m.gpkg")
    assert np.isnan(fields["area_m2"]).all()
    assert shapes[0].bounds == (0, -4, 1, 0)


def test_the_style_lists_each_class_with_its_colour(tmp_path):
    """The default style of the layer is well-formed and has each name and colour."""
    write_polygons(squares(2), tmp_path / "m.gpkg", LEGEND, info())
    with sqlite3.connect(tmp_path / "m.gpkg") as db:
        table, style, default = db.execute(
            "SELECT f_table_name, styleQML, useAsDefault FROM layer_styles"
        ).fetchone()
    root = ET.fromstring(style)
    assert (table, default) == (LAYER, 1)
    assert [c.get("label") for c in root.iter("category")] == list(LEGEND.names)
    colours = [o.get("value") for o in root.iter("Option") if o.get("name") == "color"]
    assert colours == ["200,180,60,255", "10,90,30,255"]


def test_an_older_file_is_replaced(tmp_path):
    """A second run leaves only its own polygons."""
    write_polygons(squares(5), tmp_path / "m.gpkg", LEGEND, info())
    write_polygons(squares(2), tmp_path / "m.gpkg", LEGEND, info())
    assert len(read(tmp_path / "m.gpkg")[1]) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["m.gpkg"]
