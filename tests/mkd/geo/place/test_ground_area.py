"""Ground areas: planes, feet, degrees; against closed formulas."""

import math

import numpy as np
import pytest
import shapely

from mkd.geo.place.ground_area import GroundArea


def test_a_metric_grid():
    """0.5 m pixels are 0.25 m2, rotated ones too."""
    assert GroundArea("EPSG:32633", (0.5, 0, 5e5, 0, -0.5, 5e6)).of_rows(3, 2).tolist() == [0.25, 0.25]
    c, s = math.cos(0.3) * 0.5, math.sin(0.3) * 0.5
    turned = GroundArea("EPSG:32633", (c, s, 5e5, s, -c, 5e6)).of_rows(0, 1)
    assert turned[0] == pytest.approx(0.25)


def test_a_grid_in_feet():
    """A pixel of one US survey foot is 0.0929 m2."""
    area = GroundArea("EPSG:2263", (1, 0, 1e6, 0, -1, 2e5))
    assert area.of_rows(0, 1)[0] == pytest.approx((1200 / 3937) ** 2)
    assert area.of_polygons([shapely.box(1e6, 2e5, 1e6 + 10, 2e5 + 10)])[0] == pytest.approx(
        100 * (1200 / 3937) ** 2
    )


def test_degrees_by_the_closed_formula_of_the_ellipsoid():
    """A pixel's area on WGS 84 equals M N cos(lat) dlat dlon at its middle; it shrinks towards the pole."""
    step, top = 1e-4, 60.0
    found = GroundArea("EPSG:4326", (step, 0, 10.0, 0, -step, top)).of_rows(0, 3)
    a, e2 = 6378137.0, 0.00669437999014
    for n in range(3):
        lat = math.radians(top - (n + 0.5) * step)
        w = 1 - e2 * math.sin(lat) ** 2
        expected = a**2 * (1 - e2) / w**2 * math.cos(lat) * math.radians(step) ** 2
        assert found[n] == pytest.approx(expected, rel=1e-5)


def test_holes_do_not_count():
    """On the ellipsoid a polygon with a hole is the shell less the hole, whichever way its rings run."""
    area = GroundArea("EPSG:4326", (1e-4, 0, 10.0, 0, -1e-4, 60.0))
    outer, inner = shapely.box(10, 59.99, 10.01, 60), shapely.box(10.002, 59.992, 10.004, 59.994)
    whole, hole = area.of_polygons([outer, inner])
    ring = shapely.Polygon(outer.exterior, [list(inner.exterior.coords)])
    other = shapely.Polygon(outer.exterior, [list(inner.exterior.coords)[::-1]])
    assert area.of_polygons([ring, other]) == pytest.approx([whole - hole] * 2, rel=1e-9)


def test_no_place_no_area():
    """Without CRS or transform areas are NaN."""
    assert np.isnan(GroundArea(None, (1, 0, 0, 0, -1, 0)).of_rows(0, 2)).all()
    assert np.isnan(GroundArea("EPSG:32633", None).of_polygons([shapely.box(0, 0, 1, 1)])).all()
