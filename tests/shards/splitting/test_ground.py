"""Ground that tiles of different rasters share: CRS, rotation, pixel size, one pixel, one edge, the date line."""

import math

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.warp import transform as warp

from mkd.geo.grid import Window
from mkd.geo.place.footprints import CONTACT, OVERLAP
from shards.splitting.blocks import split_places
from shards.splitting.leaks import find_leaks
from shards.splitting.neighbours import Placement, TileMap, TilePlace, place_of, touching
from shards.splitting.units import group_sources, unit_of_tiles

UTM33, UTM32, LON_LAT, COMPOUND = (
    CRS.from_user_input(name).to_wkt()
    for name in ("EPSG:32633", "EPSG:32632", "EPSG:4326", "EPSG:32633+5773")
)
FRACTIONS = {"train": 0.5, "test": 0.5}


def tile(key, x, y, crs=UTM33, pixel=0.1, size=128, turn=0.0, window=None, source=None):
    """Place a tile with its upper left corner at x, y."""
    cos, sin = pixel * math.cos(turn), pixel * math.sin(turn)
    place = Placement(crs, (cos, sin, x, sin, -cos, y), size, size)
    return TilePlace(key, source or key, window, place)


def sheet(source, x, y, rows, cols, **options):
    """Cut a placed raster into tiles of 128 pixels of 0.1 m."""
    return [
        tile(
            f"{source}_{row}_{col}",
            x + 12.8 * col,
            y - 12.8 * row,
            source=source,
            window=Window(128 * row, 128 * col, 128, 128),
            **options,
        )
        for row in range(rows)
        for col in range(cols)
    ]


def in_crs(x, y, crs):
    """Bring a point of UTM 33 into another CRS."""
    xs, ys = warp(CRS.from_epsg(32633), CRS.from_wkt(crs), [x], [y])
    return xs[0], ys[0]


BASE = tile("base", 500000.0, 5000000.0)


@pytest.mark.parametrize(
    ("other", "touch", "share"),
    [
        (tile("same", 500000.0, 5000000.0), True, True),
        (tile("one pixel", 500012.7, 5000000.0), True, True),
        (tile("edge", 500012.8, 5000000.0), True, False),
        (tile("corner", 500012.8, 5000000.0 - 12.8), True, False),
        (tile("a pixel apart", 500012.9, 5000000.0), False, False),
        (tile("coarse, covers it", 499000.0, 5001000.0, pixel=20.0), True, True),
        (tile("coarse, beside it", 500013.0 + 20, 5000000.0, pixel=20.0), False, False),
        (tile("turned, inside", 500006.0, 4999998.0, turn=0.7, size=16), True, True),
        (tile("turned, its box meets but it does not", 500012.0, 5000010.0, turn=math.pi / 4), False, False),
        (tile("with heights", 500000.0, 5000000.0, crs=COMPOUND), True, True),
        (tile("UTM 32, inside", *in_crs(500006, 4999994, UTM32), crs=UTM32, size=20), True, True),
        (tile("UTM 32, 3 m beside", *in_crs(500016, 5000000, UTM32), crs=UTM32), False, False),
        (
            tile("degrees, inside", *in_crs(500006, 4999994, LON_LAT), crs=LON_LAT, pixel=1e-6, size=20),
            True,
            True,
        ),
        (
            tile("degrees, 100 m away", *in_crs(500100, 5000000, LON_LAT), crs=LON_LAT, pixel=1e-6),
            False,
            False,
        ),
        (
            tile("other side of the world", 500000.0, 5000000.0, crs=CRS.from_epsg(32755).to_wkt()),
            False,
            False,
        ),
    ],
    ids=lambda value: value.key if isinstance(value, TilePlace) else "",
)
def test_contact_and_shared_ground_in_any_crs(other, touch, share):
    """Footprints in the world decide, mutually: an edge is contact, and shared ground is more than an edge."""
    for pair in ([BASE, other], [other, BASE]):
        tiles = TileMap(pair)
        one, two = np.array([0]), np.array([1])
        assert bool(len(tiles.touching(one, two))) is touch
        assert any(len(found) for found, _ in tiles.pairs(one, two, OVERLAP)) is share
    assert touching([BASE], [other]) == ({"base"} if touch else set())


def test_random_footprints_touch_as_their_grown_pixels_do():
    """For random turned tiles of one CRS contact equals a slow test of sampled points, where that is clear."""
    rng = np.random.default_rng(0)
    tiles = [
        tile(
            str(n),
            *rng.uniform(0, 30, 2) + (500000, 5000000),
            pixel=rng.uniform(0.05, 0.2),
            turn=rng.uniform(0, 6),
        )
        for n in range(40)
    ]
    tile_map, rows = TileMap(tiles), np.arange(40)
    found = {(a, b) for one, two in tile_map.pairs(rows, rows) for a, b in zip(one, two, strict=True)}
    grid = np.stack(np.meshgrid(np.linspace(0, 128, 60), np.linspace(0, 128, 60)), -1).reshape(-1, 2)
    for a in range(40):
        ta = np.array(tiles[a].placement.transform).reshape(2, 3)
        points = grid @ ta[:, :2].T + ta[:, 2]
        for b in range(40):
            tb = np.array(tiles[b].placement.transform).reshape(2, 3)
            inside = np.linalg.solve(tb[:, :2], (points - tb[:, 2]).T).T
            depth = np.minimum(inside, 128 - inside).min(axis=1).max()  # pixels; below 0 it is outside
            if depth > 0:
                assert (a, b) in found
            elif depth < -8:
                assert (a, b) not in found
    assert {(b, a) for a, b in found} == found


def test_the_date_line_joins_what_it_parts():
    """Tiles that end at 180 and begin at -180 degrees touch; tiles around it and at a pole do not crash."""
    west = tile("west", 180 - 128e-4, 10.0, crs=LON_LAT, pixel=1e-4)
    east = tile("east", -180.0, 10.0, crs=LON_LAT, pixel=1e-4)
    over = tile("over", *in_crs_of(179.9995, 9.999, 32660), crs=CRS.from_epsg(32660).to_wkt(), pixel=1.0)
    far = tile("far", 0.0, 10.0, crs=LON_LAT, pixel=1e-4)
    pole = tile("pole", -200000.0, 200000.0, crs=CRS.from_epsg(3031).to_wkt(), pixel=3000.0)
    assert touching([west], [east]) == {"west"}
    assert touching([east, west], [over]) == {"east", "west"}
    assert touching([far], [west, east, over, pole]) == set()
    assert touching([tile("at it", 50.0, -89.9, crs=LON_LAT, pixel=1e-4)], [pole]) == {"at it"}


def in_crs_of(lon, lat, code):
    """Bring a point in degrees into a CRS."""
    xs, ys = warp(CRS.from_epsg(4326), CRS.from_epsg(code), [lon], [lat])
    return xs[0], ys[0]


def test_dates_of_one_place_stay_together_and_neighbours_do_not():
    """Sources that overlap are one unit of --by source; those that share an edge are two, whose border is dropped."""
    days = [sheet(f"day{n}", 500000, 5000000, 4, 4) for n in range(3)]
    beside, away = sheet("beside", 500000 + 51.2, 5000000, 4, 4), sheet("away", 600000, 5000000, 4, 4)
    places = [*sum(days, []), *beside, *away]
    tiles = TileMap(places)
    assert group_sources(tiles, OVERLAP).tolist() == [0, 0, 0, 3, 4]
    assert group_sources(tiles, CONTACT).tolist() == [0, 0, 0, 0, 4]
    for seed in range(5):
        keys = split_places(places, None, FRACTIONS, seed).keys
        by_key = {place.key: place for place in places}
        train, test = ([by_key[key] for key in keys[part]] for part in ("train", "test"))
        assert not find_leaks(test, train).touching
        assert len({"train" if p in train else "test" for p in sum(days, []) if p in train or p in test}) == 1


def test_one_place_cannot_fill_two_parts_by_source():
    """Three dates of one place are told with a way that works: blocks."""
    places = sum((sheet(f"day{n}", 500000, 5000000, 8, 8) for n in range(3)), [])
    with pytest.raises(ValueError, match="3 sources share ground and make 1 place, .* use --by block"):
        split_places(places, None, FRACTIONS, 0)
    keys = split_places(places, 256, FRACTIONS, 0).keys
    assert keys["train"]
    assert keys["test"]


@pytest.mark.parametrize(
    "options", [{}, {"crs": UTM32}, {"crs": COMPOUND}], ids=["same", "UTM 32", "heights"]
)
def test_overlapping_sheets_have_one_set_of_blocks(options):
    """A tile of a second sheet on the ground of a tile of the first is in its block, also in another zone."""
    first = sheet("first", 500000, 5000000, 8, 8)
    x, y = in_crs(500000 + 4 * 12.8, 5000000, options.get("crs", UTM33))
    second = sheet("second", x, y, 8, 8, **options)
    units = unit_of_tiles(TileMap([*first, *second]), 256)
    by_key = {place.key: unit for place, unit in zip([*first, *second], units, strict=True)}
    assert by_key["first_2_4"] == ("first", 1, 2)
    if options.get("crs") != UTM32:  # its grid is turned against the first one's
        assert all(
            by_key[f"second_{r}_{c}"] == by_key[f"first_{r}_{c + 4}"] for r in range(8) for c in range(4)
        )
    parts = split_places([*first, *second], 512, FRACTIONS, 1).keys
    places = {place.key: place for place in [*first, *second]}
    assert not find_leaks([places[k] for k in parts["test"]], [places[k] for k in parts["train"]]).touching


def test_a_raster_alone_keeps_its_own_blocks():
    """A placed raster that touches no other is split as one without a place: old splits stay the same."""
    placed = sheet("one", 500000, 5000000, 8, 8)
    bare = [place._replace(placement=None) for place in placed]
    for block in (256, 300):
        assert split_places(placed, block, FRACTIONS, 3) == split_places(bare, block, FRACTIONS, 3)


def test_chips_without_windows_are_split_by_blocks_of_the_world():
    """Placed chips that make up a mosaic get common blocks, and no test chip touches a training chip."""
    chips = [place._replace(source=place.key, window=None) for place in sheet("m", 500000, 5000000, 12, 12)]
    keys = split_places(chips, 512, FRACTIONS, 0).keys
    places = {place.key: place for place in chips}
    assert not find_leaks([places[k] for k in keys["test"]], [places[k] for k in keys["train"]]).touching
    assert len(keys["test"]) + len(keys["train"]) > 80


def test_what_nothing_places_is_unknown():
    """Across sources an unplaced tile is unknown, within one its window tells; contact is counted all the same."""
    bare = TilePlace("bare", "bare", Window(0, 0, 8, 8))
    near = TilePlace("near", "bare", Window(8, 0, 8, 8))
    apart = TilePlace("apart", "bare", Window(80, 0, 8, 8))
    assert find_leaks([bare], [apart]).number == 0
    assert find_leaks([bare], [near]).number == 1
    leaks = find_leaks([bare, BASE], [apart, tile("far", 0.0, 0.0)])
    assert (leaks.number, leaks.unknown) == (None, ["bare", "base"])
    assert find_leaks([BASE], [tile("far", 0.0, 0.0)]) == ([], [])
    assert find_leaks([BASE], [tile("it", 500000.0, 5000000.0), bare]).number == 1


@pytest.mark.parametrize(
    "change",
    [
        {"crs": None},
        {"crs": "rubbish"},
        {"crs": 'LOCAL_CS["a site",UNIT["metre",1]]'},
        {"transform": None},
        {"transform": [0, 0, 5, 0, 0, 5]},
        {"transform": [float("nan"), 0, 5, 0, -1, 5]},
        {"transform": [1, 2]},
    ],
)
def test_a_record_that_places_nothing(change):
    """A missing, broken or local place is none; older records without the keys too."""
    meta = {"source": "s", "window": None, "size": [8, 8], "crs": UTM33, "transform": [1, 0, 5, 0, -1, 5]}
    assert place_of("k", meta).placement == Placement(UTM33, (1, 0, 5, 0, -1, 5), 8, 8)
    assert place_of("k", {**meta, **change}).placement is None
    assert place_of("k", {"source": "s"}).placement is None
