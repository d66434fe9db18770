"""Which tiles to label next: the whole loop from a flight to a labelled data set, with and without a model."""

import csv
import json

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from PIL import Image
from rasterio import Affine
from rasterio.features import shapes

from mkd.config.load import load
from mkd.config.schema import EvaluateRun, SelectTilesRun
from mkd.dataset.index import read_index
from mkd.recipes.data_choice.select_tiles import select_tiles
from mkd.recipes.evaluate import evaluate
from shards.__main__ import main as shards
from tests.helpers.shards import CLASSES, PALETTE, pictures, read_dataset, write_dataset
from tests.helpers.training.runs import coloured

CRS, SIDE, TILE = "EPSG:32633", 160, 32
PLACE = Affine(0.5, 0, 5e5, 0, -0.5, 5e6)


@pytest.fixture(scope="module")
def flight(tmp_path_factory):
    """An orthomosaic of 5 x 5 unlabelled tiles, its true ids, and the class file."""
    root = tmp_path_factory.mktemp("flight")
    ((image, ids),) = coloured(1, (SIDE, SIDE))
    profile = {"driver": "GTiff", "height": SIDE, "width": SIDE, "count": 3, "dtype": "uint8", "crs": CRS}
    with rasterio.open(root / "ortho.tif", "w", transform=PLACE, **profile) as file:
        file.write(image.transpose(2, 0, 1))
    palette = [list(colour) for colour in PALETTE]
    (root / "my.yaml").write_text(f"name: plots\nclasses: {list(CLASSES)}\npalette: {palette}\n")
    words = ["--source", str(root / "ortho.tif"), "--classes", str(root / "my.yaml"), "--size", str(TILE)]
    assert shards(["tile", *words, "--workers", "1", "--out", str(root / "data")]) == 0
    return root, ids


def choose(data, out, *more):
    return select_tiles(
        load(SelectTilesRun, "select_tiles", [f"data={data}", f"out={out}", "device=cpu", *more])
    )


def listed(out):
    with open(out / "tiles.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def touch(one, other):
    """Squares of a grid touch where rows and columns are both at most one tile apart."""
    return all(abs(int(one[axis]) - int(other[axis])) <= TILE for axis in ("row", "col"))


@pytest.mark.parametrize("by_model", [False, True])
def test_select_draw_and_tile(flight, runs, tmp_path, by_model):
    """The list, the picture, the GeoTIFFs; labels drawn into the GeoPackage come back with the true ids."""
    root, ids = flight
    out = tmp_path / "todo"
    model = [f"model={runs['kd'].out}/model"] if by_model else []
    said = choose(root / "data", out, "n=4", *model)
    rows = listed(out)
    assert len(rows) == 4
    assert "4 tiles of 25" in said[0]
    assert not any(touch(a, b) for n, a in enumerate(rows) for b in rows[:n])
    assert Image.open(out / "contact_sheet.png").size[0] > 500
    assert {path.stem for path in (out / "gis" / "tiles").glob("*.tif")} == {row["key"] for row in rows}
    # Somebody draws what is true, in the chosen tiles.
    gpkg = out / "gis" / "labels.gpkg"
    ground = shapely.union_all(shapely.from_wkb(pyogrio.raw.read(gpkg, layer="tiles")[2]))
    drawn = [
        (shapely.intersection(shapely.geometry.shape(shape), ground), CLASSES[int(value)])
        for shape, value in shapes(ids, transform=PLACE)
        if value != 255
    ]
    drawn = [(part, name) for shape, name in drawn for part in shapely.get_parts(shape) if part.area > 0]
    geometry = shapely.to_wkb(np.array([shape for shape, _ in drawn], object))
    columns = [np.array([name for _, name in drawn], object)]
    pyogrio.raw.write(
        gpkg, geometry, columns, ["class"], layer="labels", geometry_type="Polygon", crs=CRS, append=True
    )
    words = ["--source", f"{out}/gis/tiles/*.tif", "--labels", f"{gpkg}|layername=labels"]
    words += ["--classes", str(root / "my.yaml"), "--size", str(TILE), "--workers", "1"]
    assert shards(["tile", *words, "--out", str(tmp_path / "back")]) == 0
    back = list(read_dataset(tmp_path / "back"))
    assert read_index(tmp_path / "back").labelled == 4
    places = {row["key"]: (int(row["row"]), int(row["col"])) for row in rows}
    for tile in back:
        top, left = places[tile.meta["source"]]
        assert np.array_equal(tile.label, ids[top : top + TILE, left : left + TILE])
    # The next round: none of these tiles, nor one that touches them.
    said = choose(root / "data", tmp_path / "next", "n=2", f"labelled={tmp_path / 'back'}", *model)
    assert any("left out" in line for line in said)
    assert not any(touch(a, b) for a in listed(tmp_path / "next") for b in rows)


def test_pre_labels_are_polygons(flight, runs, tmp_path):
    """With a model a layer of its polygons covers the chosen tiles once; the layer to draw into stays empty."""
    root, _ = flight
    out = tmp_path / "todo"
    said = choose(root / "data", out, "n=3", f"model={runs['kd'].out}/model")
    assert any("count alike" in line for line in said)
    gpkg = out / "gis" / "labels.gpkg"
    meta, _, geometry, values = pyogrio.raw.read(gpkg, layer="prelabels")
    fields = dict(zip(meta["fields"], values, strict=True))
    assert set(fields["class"]) <= set(CLASSES)
    assert 0 < fields["confidence"].min() <= fields["confidence"].max() <= 1
    outlines = shapely.union_all(shapely.from_wkb(pyogrio.raw.read(gpkg, layer="tiles")[2]))
    union = shapely.union_all(shapely.from_wkb(geometry))
    assert shapely.area(shapely.from_wkb(geometry)).sum() == pytest.approx(outlines.area, rel=1e-6)
    assert shapely.symmetric_difference(union, outlines).area < 1e-6 * outlines.area
    assert pyogrio.read_info(gpkg, layer="labels")["features"] == 0
    needs = [float(row["need"]) for row in listed(out)]
    assert needs[0] == max(needs)
    assert all(0 < need <= 1 for need in needs)


def test_an_evaluation_weights_the_classes(flight, runs, tmp_path):
    """The weights follow the IoU; other weights than the model's are said; another model's classes are refused."""
    root, _ = flight
    model = f"{runs['kd'].out}/model"
    results = tmp_path / "results.json"
    argv = [f"model={model}", f"data={runs['kd'].data.val}", f"out={results}", "device=cpu"]
    found = evaluate(load(EvaluateRun, "evaluate", argv))
    said = choose(root / "data", tmp_path / "a", "n=2", f"model={model}", f"evaluation={results}")
    worst = min((name for name in found["iou"] if found["iou"][name] is not None), key=found["iou"].get)
    (line,) = [line for line in said if line.startswith("classes that count most: ")]
    assert line.split(": ")[1].startswith(worst)
    assert not any("other weights" in line for line in said)
    found["provenance"]["model_sha256"] = "0" * 64
    results.write_text(json.dumps(found))
    said = choose(root / "data", tmp_path / "b", "n=2", f"model={model}", f"evaluation={results}")
    assert any("other weights" in line for line in said)
    found["iou"] = {"sea": 0.5}
    for content in (json.dumps(found), "[]", json.dumps({"iou": {"sea": "x"}})):
        results.write_text(content)
        with pytest.raises(ValueError, match=r"^evaluation=.*; give the (file|results.json)"):
            choose(root / "data", tmp_path / "c", f"model={model}", f"evaluation={results}")
    assert not (tmp_path / "c").exists()


def test_the_seed_decides_and_fewer_are_said(flight, tmp_path):
    """The same seed chooses the same tiles; more tiles than can lie apart are said: 9 of a grid of 5 x 5."""
    root, _ = flight
    texts = []
    for name in ("a", "b"):
        said = choose(root / "data", tmp_path / name, "n=25", "seed=3")
        texts.append((tmp_path / name / "tiles.csv").read_text())
    assert texts[0] == texts[1]
    assert 4 <= len(listed(tmp_path / "a")) <= 9
    assert any("that do not touch could be chosen" in line for line in said)


def test_tiles_without_a_place(tmp_path):
    """They are chosen by their features; the missing places and the missing GIS folder are said."""
    data = write_dataset(tmp_path / "plain", pictures(6, (40, 40)), labelled=False)
    said = choose(data, tmp_path / "todo", "n=3")
    assert sum("without a place on Earth" in line for line in said) == 2
    assert len(listed(tmp_path / "todo")) == 3
    assert not (tmp_path / "todo" / "gis").exists()


def test_labelled_tiles_are_left_out(tmp_path):
    """A data set of labelled tiles has nothing to choose; of a mixed one the unlabelled tiles are chosen."""
    pairs = pictures(4, (40, 40))
    whole = write_dataset(tmp_path / "whole", pairs)
    with pytest.raises(
        ValueError, match="none of its 4 tiles is left to choose .4 tiles of tiny have labels"
    ):
        choose(whole, tmp_path / "todo")
    pairs[2][1][:] = 255  # such a tile counts as unlabelled
    mixed = write_dataset(tmp_path / "mixed", pairs)
    said = choose(mixed, tmp_path / "todo", "n=1")
    assert "3 tiles of tiny have labels: left out" in said
    assert [row["key"] for row in listed(tmp_path / "todo")] == ["tile0002"]


def test_what_cannot_be_done_is_one_sentence(flight, sets, runs, tmp_path):
    """A folder that is there, an evaluation without a model, a model of other classes, a bad number."""
    root, _ = flight
    (tmp_path / "old").mkdir()
    source = f"model={runs['supervised'].out}/model"
    for out, words, text in (
        ("old", [], "is there already"),
        ("new", ["evaluation=x.json"], "give model= too"),
        ("new", [source], "use a data set and a model of the same classes"),
        ("new", ["n=0"], "n=0; at least 1 is allowed"),
        ("new", ["seed=-1"], "seed=-1; at least 0 is allowed"),
    ):
        with pytest.raises(ValueError, match=text) as caught:
            choose(root / "data", tmp_path / out, *words)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()
