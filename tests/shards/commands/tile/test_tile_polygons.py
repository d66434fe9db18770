"""Labels as a GIS saves them: polygons, points and label rasters of another grid, cut into tiles by the command."""

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from pyproj import Transformer
from rasterio import Affine

from mkd.dataset.index import read_index
from shards.__main__ import main
from shards.commands.verify import verify
from tests.helpers.shards import read_dataset

SIZE, EDGE = (96, 128), 0.5
LEFT, TOP, CRS = 500000.0, 5000000.0, "EPSG:32633"
CLASSES = """
name: plots
classes: [field, wood, water]
palette: [[200, 180, 60], [20, 110, 30], [20, 80, 200]]
names: {Acker: field, Wald: 1, unsure: 255}
"""


def write(path, array, *, left=LEFT, top=TOP, edge=EDGE, crs=CRS, nodata=None):
    """Write (H, W) or (H, W, C) as a GeoTIFF."""
    pixels = array[..., None] if array.ndim == 2 else array
    height, width, count = pixels.shape
    profile = {"height": height, "width": width, "count": count, "dtype": array.dtype, "nodata": nodata}
    with rasterio.open(
        path, "w", "GTiff", crs=crs, transform=Affine(edge, 0, left, 0, -edge, top), **profile
    ) as f:
        f.write(pixels.transpose(2, 0, 1))
    return str(path)


def box(col0, row0, col1, row1):
    """A rectangle of image pixels, on the ground."""
    return shapely.box(LEFT + EDGE * col0, TOP - EDGE * row1, LEFT + EDGE * col1, TOP - EDGE * row0)


def save(path, shapes, values, *, crs=CRS, layer=None, **more):
    """Write features with the field `land`."""
    columns = [np.array(values, object)]
    if layer:
        more["layer"] = layer
    pyogrio.raw.write(
        path,
        shapely.to_wkb(np.array(shapes)),
        columns,
        ["land"],
        geometry_type=shapes[0].geom_type,
        crs=crs,
        **more,
    )
    return str(path)


@pytest.fixture
def scene(tmp_path):
    """An image of noise, with alpha in a corner, as OpenDroneMap writes it; and a class file for polygons."""
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 4), np.uint8)
    image[..., 3] = 255
    image[:20, :20, 3] = 0
    profile = {
        "height": SIZE[0],
        "width": SIZE[1],
        "count": 4,
        "dtype": "uint8",
        "photometric": "RGB",
        "alpha": "YES",
    }
    place = {"crs": CRS, "transform": Affine(EDGE, 0, LEFT, 0, -EDGE, TOP)}
    with rasterio.open(tmp_path / "ortho.tif", "w", "GTiff", **profile, **place) as file:
        file.write(image.transpose(2, 0, 1))
    (tmp_path / "my.yaml").write_text(CLASSES)
    return image


def tile(tmp_path, *words, out="data", source="ortho.tif"):
    """Run the command; return its exit code."""
    base = ["tile", "--source", str(tmp_path / source), "--classes", str(tmp_path / "my.yaml")]
    return main([*base, "--size", "32", "--workers", "1", "--out", str(tmp_path / out), *words])


def mosaic(folder):
    """Put the labels of all tiles where they lie."""
    whole = np.full(SIZE, 254, np.uint8)
    for sample in read_dataset(folder):
        row, col, height, width = sample.meta["window"]
        whole[row : row + height, col : col + width] = 255 if sample.label is None else sample.label
    return whole


def test_polygons_become_labels(scene, tmp_path, capsys):
    """In another CRS, with a layer, own words for classes and a hole: the pixels of a plain loop."""
    way = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    shapes = [box(0, 0, 60, 50).difference(box(10, 30, 20, 40)), box(50, 40, 100, 90), box(70, 10, 80, 20)]
    there = [shapely.transform(s, lambda xy: np.stack(way.transform(*xy.T), 1)) for s in shapes]
    path = save(
        tmp_path / "plots.gpkg", there, ["Acker", "Wald", "unsure"], crs="EPSG:4326", layer="land use"
    )
    assert tile(tmp_path, "--labels", path, "--layer", "land use", "--field", "land") == 0
    expected = np.full(SIZE, 255, np.uint8)
    expected[0:50, 0:60] = 0
    expected[30:40, 10:20] = 255
    expected[40:90, 50:100] = 1  # the later feature wins
    expected[:20, :20] = 255  # no data in the image
    assert np.array_equal(mosaic(tmp_path / "data"), expected)
    assert verify(tmp_path / "data") == []
    assert read_index(tmp_path / "data").classes == ("field", "wood", "water")
    # The same command goes on; polygons that were changed are seen.
    assert tile(tmp_path, "--labels", path, "--layer", "land use", "--field", "land") == 0
    assert "already tiled" in capsys.readouterr().out
    save(
        tmp_path / "plots.gpkg",
        [*there, there[0]],
        ["Acker", "Wald", "unsure", "Wald"],
        crs="EPSG:4326",
        layer="land use",
    )
    assert tile(tmp_path, "--labels", path, "--layer", "land use", "--field", "land") == 2
    assert "other inputs" in capsys.readouterr().err


def test_ground_outside_polygons(scene, tmp_path):
    """Outside is ignored, or a class; with an extent it is that class only where somebody looked."""
    both = tmp_path / "both.gpkg"
    save(both, [box(32, 32, 64, 64)], ["water"], layer="plots")
    save(both, [box(32, 0, 128, 96)], ["x"], layer="seen", append=True)
    common = ["--labels", f"{both}|layername=plots", "--field", "land"]
    assert tile(tmp_path, *common, out="a") == 0
    assert tile(tmp_path, *common, "--outside", "field", out="b") == 0
    assert tile(tmp_path, *common, "--outside", "0", "--extent", f"{both}|layername=seen", out="c") == 0
    water = np.zeros(SIZE, bool)
    water[32:64, 32:64] = True
    data = np.ones(SIZE, bool)
    data[:20, :20] = False
    assert np.array_equal(mosaic(tmp_path / "a"), np.where(water, 2, 255))
    assert np.array_equal(mosaic(tmp_path / "b"), np.where(data, np.where(water, 2, 0), 255))
    seen = np.arange(SIZE[1])[None, :] >= 32
    assert np.array_equal(mosaic(tmp_path / "c"), np.where(data & seen, np.where(water, 2, 0), 255))


def test_points_and_a_shapefile(scene, tmp_path, capsys):
    """Points of a shapefile grow to discs of the metres asked for; without, they are refused with that remedy."""
    middle = shapely.Point(LEFT + EDGE * 80, TOP - EDGE * 50)
    path = save(tmp_path / "points.shp", [middle], ["Wald"])
    assert tile(tmp_path, "--labels", path, "--field", "land") == 2
    assert "give --buffer METRES" in capsys.readouterr().err
    assert tile(tmp_path, "--labels", path, "--field", "land", "--buffer", "6") == 0
    rows, cols = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    distance = EDGE * np.hypot(rows - 50, cols - 80)
    found = mosaic(tmp_path / "data")
    assert (found[distance < 5.8] == 1).all()
    assert (found[distance > 6.0] == 255).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--field", "use"], "has no field 'use' in its layer 'plots'; it has land"),
        (["--field", "land", "--layer", "x"], "has no layer 'x'; it has plots"),
        (
            ["--field", "land", "--outside", "sea"],
            "--outside 'sea': give 'ignore' or a class, one of field, wood",
        ),
        (["--field", "land", "--extent", "seen.tif"], "--extent seen.tif: give a GeoPackage"),
        (["--field", "land", "--buffer", "-1"], "--buffer -1: give metres above 0"),
        (["--field", "land", "--warp-labels"], "--warp-labels is for label rasters"),
        (["--field", "land"], "'Moor' (2)"),
    ],
)
def test_bad_polygons(scene, tmp_path, capsys, words, message):
    """Each one sentence, and nothing is written."""
    path = save(tmp_path / "p.gpkg", [box(0, 0, 9, 9), box(5, 5, 9, 9)], ["Moor", "Moor"], layer="plots")
    assert tile(tmp_path, "--labels", path, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_polygons_elsewhere_are_said(scene, tmp_path, capsys):
    """A layer that lies beside the scene labels nothing: said by name, and the tiles are unlabelled."""
    path = save(tmp_path / "p.gpkg", [box(9000, 9000, 9100, 9100)], ["Wald"])
    assert tile(tmp_path, "--labels", path, "--field", "land") == 0
    assert "no polygon lies on 1 scene: ortho.tif" in capsys.readouterr().out
    assert read_index(tmp_path / "data").labelled == 0


def test_label_rasters_of_another_grid_are_warped_when_asked(scene, tmp_path, capsys):
    """Half the resolution and a smaller extent: refused with both grids; then each pixel is the nearest label's."""
    label = np.random.default_rng(1).integers(0, 3, (40, 50), np.uint8)
    path = write(tmp_path / "label.tif", label, left=LEFT + 5, top=TOP - 3, edge=1.0)
    assert tile(tmp_path, "--labels", path) == 2
    error = capsys.readouterr().err
    assert "image: 96 x 128 pixels of 0.5 x 0.5" in error
    assert "label: 40 x 50 pixels of 1 x 1" in error
    assert "--warp-labels" in error
    assert tile(tmp_path, "--labels", path, "--warp-labels") == 0
    expected = np.full(SIZE, 255, np.uint8)
    for row in range(SIZE[0]):
        for col in range(SIZE[1]):
            x, y = EDGE * (col + 0.5) - 5, EDGE * (row + 0.5) - 3  # metres from the label's corner
            if 0 <= x < 50 and 0 <= y < 40 and (row >= 20 or col >= 20):
                expected[row, col] = label[int(y), int(x)]
    assert np.array_equal(mosaic(tmp_path / "data"), expected)


def test_a_warped_label_keeps_its_no_data(scene, tmp_path):
    """The no-data value of the label raster stays no class after warping, in another CRS too."""
    way = Transformer.from_crs(CRS, "EPSG:32634", always_xy=True)
    x, y = way.transform(LEFT + 32, TOP - 24)  # the image's middle
    label = np.full((400, 400), 7, np.uint8)
    label[:, 200:] = 1
    path = write(tmp_path / "label.tif", label, left=x - 100, top=y + 100, crs="EPSG:32634", nodata=7)
    assert tile(tmp_path, "--labels", path, "--warp-labels") == 0
    found = mosaic(tmp_path / "data")
    assert set(np.unique(found)) == {1, 255}
    assert 0.4 < (found == 1).mean() < 0.6  # the half to the east
    assert (found[40:, 100:] == 1).all()
    assert (found[40:, :28] == 255).all()


def test_a_raster_without_crs_cannot_be_warped(scene, tmp_path, capsys):
    """One sentence with the remedy."""
    path = write(tmp_path / "label.tif", np.zeros((40, 50), np.uint8), crs=None)
    assert tile(tmp_path, "--labels", path, "--warp-labels") == 2
    assert "has no CRS or no transform" in capsys.readouterr().err
