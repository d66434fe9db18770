"""Polygons of class maps: they cover the map without gaps and overlaps, whatever the strips; small areas go."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, label

from mkd.geo.class_map import ClassMapWriter, Legend
from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader
from mkd.geo.vector.polygons import class_polygons

LEGEND = Legend(("a", "b", "c"), ((0, 0, 0), (9, 9, 9), (99, 9, 9)))


def smooth_classes(height, width, seed=0, holes=True):
    field = gaussian_filter(np.random.default_rng(seed).standard_normal((height, width)), 3)
    ids = np.digitize(field, np.quantile(field, [0.4, 0.8])).astype(np.uint8)
    if holes:
        ids[: height // 5, : width // 4] = 255
    return ids


def written(path, ids, confidence=None):
    confidence = np.full_like(ids, 127) if confidence is None else confidence
    pixels = np.stack([ids, np.where(ids == 255, 255, confidence)], -1).astype(np.uint8)
    with ClassMapWriter(path, *ids.shape, LEGEND) as writer:
        writer.write(Window(0, 0, *ids.shape), pixels)
    return path


def polygons(path, **more):
    with RasterReader(path) as reader:
        return list(class_polygons(reader, **more))


def slow_components(ids):
    """Count pixels of each 4-connected area of each class, by scipy's labelling."""
    found = []
    for value in range(3):
        areas, count = label(ids == value)
        found += [(value, int((areas == n).sum())) for n in range(1, count + 1)]
    return sorted(found)


@pytest.mark.parametrize("strip", [1, 7, 32, 1000])
def test_each_connected_area_is_one_polygon_for_any_strip(tmp_path, strip):
    """Without simplification: classes, pixel counts and areas equal scipy's components; nothing is cut at seams."""
    ids = smooth_classes(60, 50)
    found = polygons(written(tmp_path / "m.tif", ids), tolerance=0, strip=strip)
    assert sorted((p.class_id, p.pixels) for p in found) == slow_components(ids)
    assert sorted((p.class_id, round(p.geometry.area)) for p in found) == slow_components(ids)


@pytest.mark.parametrize("strip", [16, 40, 1000])
@pytest.mark.parametrize("smallest", [1, 30])
def test_simplified_polygons_neither_gap_nor_overlap(tmp_path, strip, smallest):
    """Areas add up to the union's, the union has no hole but the pixels without data; far fewer corners remain."""
    ids = smooth_classes(120, 90, seed=3, holes=False)
    found = polygons(written(tmp_path / "m.tif", ids), strip=strip, smallest=smallest)
    geometries = np.array([p.geometry for p in found])
    union = shapely.union_all(geometries)
    assert shapely.is_valid(geometries).all()
    assert union.equals(shapely.box(0, 0, 90, 120))
    assert shapely.area(geometries).sum() == pytest.approx(120 * 90, abs=1e-6)
    exact = np.array([p.geometry for p in polygons(tmp_path / "m.tif", tolerance=0, smallest=smallest)])
    assert shapely.get_num_coordinates(geometries).sum() < 0.7 * shapely.get_num_coordinates(exact).sum()
    assert sum(p.pixels for p in found) == ids.size


def test_a_simplified_border_stays_near_the_pixels(tmp_path):
    """Each polygon overlaps its own class's pixels by more than nine tenths of its area, for areas of 100 and more."""
    ids = smooth_classes(100, 100, seed=5, holes=False)
    for polygon in polygons(written(tmp_path / "m.tif", ids), strip=32):
        if polygon.pixels >= 100:
            rows, cols = np.nonzero(ids == polygon.class_id)
            inside = shapely.contains_xy(polygon.geometry, cols + 0.5, rows + 0.5).sum()
            assert inside > 0.9 * polygon.geometry.area


@pytest.mark.parametrize("strip", [5, 16, 1000])
def test_small_areas_go_to_a_neighbour_for_any_strip(tmp_path, strip):
    """A spot below the limit vanishes, one of the limit stays, also across a seam."""
    ids = np.zeros((40, 40), np.uint8)
    ids[14:18, 10:13] = 1  # 12 pixels
    ids[14:18, 30:32] = 2  # 8 pixels
    found = polygons(written(tmp_path / "m.tif", ids), smallest=12, strip=strip, tolerance=0)
    assert sorted((p.class_id, p.pixels) for p in found) == [(0, 40 * 40 - 12), (1, 12)]


def test_confidence_is_summed_over_the_own_pixels(tmp_path):
    """Each polygon holds the sum of band 2 over its pixels, by a slow mask."""
    ids = smooth_classes(50, 40)
    confidence = np.random.default_rng(2).integers(0, 255, ids.shape).astype(np.uint8)
    found = polygons(written(tmp_path / "m.tif", ids, confidence), strip=9)
    for value in range(3):
        assert sum(p.confidence for p in found if p.class_id == value) == confidence[ids == value].sum()


def test_a_map_without_data_has_no_polygon(tmp_path):
    """All pixels without data: nothing is yielded."""
    assert polygons(written(tmp_path / "m.tif", np.full((30, 30), 255, np.uint8)), strip=8) == []


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 12),
    st.lists(st.lists(st.sampled_from([0, 1, 2, 255]), min_size=9, max_size=9), min_size=1, max_size=14),
)
def test_any_small_map(tmp_path_factory, strip, rows):
    """Any pattern, any strip: one polygon for each connected area, of its size."""
    ids = np.array(rows, np.uint8)
    path = written(tmp_path_factory.mktemp("map") / "m.tif", ids)
    found = polygons(path, tolerance=0, strip=strip)
    assert sorted((p.class_id, p.pixels) for p in found) == slow_components(ids)
    simplified = polygons(path, strip=strip)
    assert sorted((p.class_id, p.pixels) for p in simplified) == slow_components(ids)
