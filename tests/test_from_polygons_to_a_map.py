"""The whole way of a GIS user, typed as docs/data.md and docs/gis.md say: polygons and an orthomosaic -> a map."""

import csv
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pyogrio
import pytest
import rasterio
import shapely
from rasterio import Affine
from rasterio.features import shapes
from rio_cogeo.cogeo import cog_validate

from mkd.synth.landscape import STYLES, render
from shards.__main__ import main as shards
from tests.helpers.training.runs import launch

EDGE, LEFT, TOP, CRS = 0.1, 500000.0, 5000000.0, "EPSG:32633"
SIDE = 288
CLASSES = ("background", "road", "farmland", "building", "water", "grassland")
PALETTE = STYLES["target"].palette
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KINDS = {"rgba": ("uint8", 4), "five": ("uint16", 5)}


def fly(folder, name, kind, seed):
    """Write an orthomosaic as a photogrammetry program does; return its true class ids."""
    scene = render("target", SIDE, SIDE, seed)
    dtype, count = KINDS[kind]
    if kind == "rgba":
        bands = np.concatenate([scene.image, np.full((SIDE, SIDE, 1), 255, np.uint8)], axis=2)
        bands[:12] = 0  # outside the flight
        more = {"photometric": "RGB", "alpha": "YES"}
    else:  # red edge and near infrared beside the colours, reflectance times 10,000
        green = scene.image[..., 1:2].astype(np.uint16)
        bands = (
            np.concatenate([scene.image.astype(np.uint16), green // 2 + 20, 255 - green], axis=2) * 16 + 400
        )
        bands[:12] = 0
        more = {"nodata": 0}
    profile = {"driver": "GTiff", "height": SIDE, "width": SIDE, "count": count, "dtype": dtype, "crs": CRS}
    place = Affine(EDGE, 0, LEFT + 100 * seed, 0, -EDGE, TOP)
    with rasterio.open(folder / f"{name}.tif", "w", transform=place, **profile, **more) as file:
        file.write(bands.transpose(2, 0, 1))
    return scene.label, place


def draw(folder, ids, place):
    """Save the classes as polygons, as somebody draws them in QGIS."""
    found = [
        (shapely.geometry.shape(shape), CLASSES[int(value)]) for shape, value in shapes(ids, transform=place)
    ]
    columns = [np.array([name for _, name in found], object)]
    geometry = shapely.to_wkb(np.array([polygon for polygon, _ in found]))
    pyogrio.raw.write(folder / "plots.gpkg", geometry, columns, ["class"], geometry_type="Polygon", crs=CRS)


def check_map():
    """Read the map by GDAL and rio-cogeo: place, colours, names, no data; return its class ids."""
    assert cog_validate("map.tif")[0]
    with rasterio.open("map.tif") as file:
        found, colours = file.read(1), file.colormap(1)
        assert (file.crs, file.nodata) == (rasterio.crs.CRS.from_string(CRS), 255)
        assert file.transform.almost_equals(Affine(EDGE, 0, LEFT + 100, 0, -EDGE, TOP))
    assert [colours[n][:3] for n in range(len(CLASSES))] == [tuple(colour) for colour in PALETTE]
    names = re.findall("<Category>([^<]*)</Category>", Path("map.tif.aux.xml").read_text())
    assert names[: len(CLASSES)] == list(CLASSES)
    assert (found[:12] == 255).all()
    assert (found[12:] != 255).all()
    return found


def check_products(found):
    """Read polygons by OGR and areas by a spreadsheet's reader: they cover the ground that was flown, once."""
    meta, _, geometry, values = pyogrio.raw.read("map.gpkg", layer="land_cover")
    polygons = shapely.from_wkb(geometry)
    fields = dict(zip(meta["fields"], values, strict=True))
    flown = SIDE * (SIDE - 12) * EDGE**2
    assert sum(shapely.area(polygons)) == pytest.approx(flown, rel=1e-3)
    assert shapely.area(shapely.union_all(polygons)) == pytest.approx(flown, rel=1e-3)
    assert set(fields["class"]) <= set(CLASSES)
    with open("areas.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(CLASSES)
    assert sum(float(row["hectares"]) for row in rows) == pytest.approx(flown / 1e4, rel=1e-3)
    for row in rows:
        assert int(row["pixels"]) == (found == int(row["class_id"])).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_from_polygons_to_a_map(tmp_path, monkeypatch, capfd, kind):
    """Tiles, 30 steps of fine-tuning, map with names, polygons, hectares, preview and ONNX; each read by others."""
    monkeypatch.chdir(tmp_path)
    ids, place = fly(tmp_path, "ortho", kind, 0)
    draw(tmp_path, ids, place)
    truth, _ = fly(tmp_path, "other", kind, 1)
    palette = [list(colour) for colour in PALETTE]
    (tmp_path / "my.yaml").write_text(f"name: plots\nclasses: {list(CLASSES)}\npalette: {palette}\n")
    typed = "tile --source ortho.tif --labels plots.gpkg --field class --classes my.yaml --size 96 --out data"
    assert shards([*typed.split(), "--workers", "1"]) == 0
    train = ["out=runs/a", "data.labelled=data", "steps=30", "model=lite0", "data.crop=96", "data.batch=4"]
    assert launch("supervised", *train, "data.workers=0", "device=cpu") == 0
    products = ["polygons=map.gpkg", "min_area=0.5", "areas=areas.csv", "preview=preview.html"]
    assert (
        launch(
            "predict_map", "model=runs/a/model", "input=other.tif", "output=map.tif", *products, "device=cpu"
        )
        == 0
    )
    assert launch("export", "model=runs/a/model", "output=model.onnx", "resolution=10") == 0
    assert "Traceback" not in capfd.readouterr().err

    found = check_map()
    # What it says: better than the commonest class everywhere.
    right = (found[12:] == truth[12:]).mean()
    assert right > np.bincount(truth[12:].ravel()).max() / truth[12:].size + 0.05
    check_products(found)
    # The model, by onnxruntime.
    session = onnxruntime.InferenceSession("model.onnx")
    assert session.get_inputs()[0].shape[1] == {"rgba": 3, "five": 5}[kind]
    if BROWSER:
        page = subprocess.run(
            [
                BROWSER,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--dump-dom",
                f"file://{tmp_path}/preview.html",
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
        assert all(name in page for name in CLASSES)
