"""CRS compared by their horizontal part, grids by a tenth of a pixel, places without a transform."""

import numpy as np
import pytest
from rasterio.crs import CRS

from mkd.geo.grid import Window
from mkd.geo.place.control_points import ControlPoints
from mkd.geo.place.crs import LON_LAT, crs_name, horizontal_crs, reproject_points, same_horizontal_crs
from mkd.geo.raster import RasterReader, RasterWriter
from mkd.geo.raster_info import grid_difference, grid_offset

PLACE = (0.1, 0.0, 500000.0, 0.0, -0.1, 5000000.0)
PLAIN = 'GEOGCS["lon first",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],PRIMEM["Greenwich",0],'
PLAIN += 'UNIT["degree",0.0174532925199433],AXIS["Longitude",EAST],AXIS["Latitude",NORTH]]'
UTM33 = CRS.from_epsg(32633)


def raster(path, crs="EPSG:32633", transform=PLACE, control=None):
    """Write 40 x 30 zeros and describe them."""
    with RasterWriter(path, 40, 30, 1, "uint8", crs=crs, transform=transform, control=control) as out:
        out.write(Window(0, 0, 40, 30), np.zeros((40, 30), np.uint8))
    with RasterReader(path) as reader:
        return reader.info


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("EPSG:32633+5773", "EPSG:32633", True),
        ("EPSG:32633+5773", "EPSG:32633+3855", True),
        ("EPSG:32633+5773", "EPSG:32632+5773", False),
        ("EPSG:4979", "EPSG:4326", True),
        ("OGC:CRS84", "EPSG:4326", True),
        (PLAIN, "EPSG:4326", True),
        (UTM33.to_wkt(version="WKT1_ESRI"), "EPSG:32633", True),
        (UTM33.to_wkt(version="WKT2_2019"), UTM33.to_wkt(), True),
        ("+proj=tmerc +lon_0=15 +k=0.9996 +x_0=500000 +datum=WGS84", "EPSG:32633", True),
        ("+proj=utm +zone=33 +ellps=WGS84 +towgs84=0,0,0,0,0,0,0 +units=m", "EPSG:32633", True),
        ("+proj=utm +zone=33 +ellps=bessel +towgs84=598,74,418,0.2,0,-2.5,6.7 +units=m", "EPSG:32633", False),
        ("EPSG:32632", "EPSG:32633", False),
        ("EPSG:25833", "EPSG:32633", False),
        ("EPSG:3857", "EPSG:4326", False),
    ],
)
def test_horizontal_parts_decide(one, other, same):
    """Heights, a shift to another datum, spelling and the order of axes do not matter; another zone does."""
    degrees = horizontal_crs(one).is_geographic
    xs, ys = ([15.0, 15.1], [45.0, 45.1]) if degrees else ([5e5, 5.001e5], [5e6, 5.0001e6])
    near = 1e-7 if degrees else 0.01
    assert same_horizontal_crs(one, other, xs, ys, near) is same
    assert same_horizontal_crs(other, one, xs, ys, near) is same


def test_what_is_no_place_on_a_planet_has_no_horizontal_part():
    """Rubbish and a building site's own grid cannot be compared, but for being the same text."""
    site = 'LOCAL_CS["a site",UNIT["metre",1]]'
    assert horizontal_crs("rubbish") is None
    assert horizontal_crs(site) is None
    assert same_horizontal_crs(site, site, [0], [0], 1)
    assert not same_horizontal_crs(site, "EPSG:32633", [0], [0], 1)
    assert crs_name("EPSG:32633+5773") == "EPSG:32633 + EPSG:5773"
    assert "rubbish" in crs_name("rubbish")


def test_points_without_a_place_do_not_take_others_along():
    """Of three points one lies outside of the projection: the others come through."""
    x, y = reproject_points(np.array([5e5, 1e30, 5e5]), np.array([5e6, 1e30, 0.0]), "EPSG:32633", LON_LAT)
    assert np.isnan([x[1], y[1]]).all()
    assert x[[0, 2]] == pytest.approx([15, 15])
    assert y[2] == pytest.approx(0)


@pytest.mark.parametrize(
    ("transform", "crs", "offset", "difference"),
    [
        ((0.1, 0, 500000.001, 0, -0.1, 5000000), "EPSG:32633", 0.01, None),
        ((0.1, 0, 500000.009, 0, -0.1, 5000000), "EPSG:32633+5773", 0.09, None),
        (
            (0.1, 0, 500000.012, 0, -0.1, 5000000),
            "EPSG:32633",
            0.12,
            "by up to 0.12 pixels (0.1 are allowed)",
        ),
        ((0.1, 0, 500000, 0, -0.1, 4999999.95), "EPSG:32633", 0.5, "by up to 0.5 pixels"),
        ((0.1005, 0, 500000, 0, -0.1, 5000000), "EPSG:32633", 0.15, "by up to 0.15 pixels"),
        ((0.1, 0.001, 500000, 0, -0.1, 5000000), "EPSG:32633", 0.4, "by up to 0.4 pixels"),
        (PLACE, "EPSG:32632+5773", 0.0, "CRS, EPSG:32633 and EPSG:32632 + EPSG:5773"),
        (None, "EPSG:32633", 0.0, None),
    ],
)
def test_grids_may_be_a_tenth_of_a_pixel_apart(tmp_path, transform, crs, offset, difference):
    """The farthest corner counts, in pixels, for shifts, scales and shears; the message tells it."""
    a, b = raster(tmp_path / "a.tif"), raster(tmp_path / "b.tif", crs, transform)
    assert grid_offset(a, b) == pytest.approx(offset, abs=1e-4)
    found = grid_difference(a, b)
    assert found is None if difference is None else difference in str(found)


@pytest.mark.parametrize("kind", ["points", "points without CRS", "rpc"])
def test_control_points_and_rpcs_are_read_and_written(tmp_path, kind):
    """What a raster has in place of a transform comes back from a written one."""
    if kind == "rpc":
        names = "HEIGHT_OFF HEIGHT_SCALE LAT_OFF LAT_SCALE LONG_OFF LONG_SCALE LINE_OFF LINE_SCALE SAMP_OFF SAMP_SCALE"
        values = dict.fromkeys(names.split(), "10")
        ramp = " ".join(str(n / 8) for n in range(1, 21))
        values |= {f"{axis}_{part}_COEFF": ramp for axis in ("LINE", "SAMP") for part in ("NUM", "DEN")}
        control = ControlPoints(rpc=tuple(sorted(values.items())))
    else:
        corners = (
            (0, 0, 5e5, 5e6, 1.5),
            (0, 30, 500003, 5e6, 0),
            (40, 0, 5e5, 4999996, 0),
            (40, 30, 500003, 4999995, 0),
        )
        control = ControlPoints(corners, UTM33.to_wkt() if kind == "points" else None)
    info = raster(tmp_path / "a.tif", None, None, control)
    found = info.control
    assert info.transform is None
    assert found is not None
    if kind == "rpc":
        parsed = [{name: [float(v) for v in text.split()] for name, text in c.rpc} for c in (control, found)]
        assert {name: parsed[1][name] for name in parsed[0]} == parsed[0]
    else:
        assert (found.points, found.crs) == (control.points, control.crs)
    assert str(found) == ("RPCs" if kind == "rpc" else "4 ground control points")
    assert raster(tmp_path / "b.tif").control is None
