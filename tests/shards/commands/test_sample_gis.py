"""`sample --out FOLDER`: tiles that a GIS opens, an empty layer with the classes, and the way back into a data set."""

import sqlite3
from xml.etree import ElementTree

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio import Affine

from mkd.dataset.index import read_index
from shards.__main__ import main
from tests.helpers.shards import pictures, read_dataset, write_dataset

CRS = "EPSG:32633"
PALETTE = [[200, 180, 60], [20, 110, 30]]


@pytest.fixture
def data(tmp_path):
    """A data set of an unlabelled orthomosaic, with a class file."""
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    profile = {"driver": "GTiff", "height": 64, "width": 96, "count": 3, "dtype": "uint8", "crs": CRS}
    with rasterio.open(
        tmp_path / "ortho.tif", "w", transform=Affine(0.5, 0, 5e5, 0, -0.5, 5e6), **profile
    ) as file:
        file.write(image.transpose(2, 0, 1))
    (tmp_path / "my.yaml").write_text(f"name: plots\nclasses: [field, R&D wood]\npalette: {PALETTE}\n")
    words = ["--source", str(tmp_path / "ortho.tif"), "--classes", str(tmp_path / "my.yaml"), "--size", "32"]
    assert main(["tile", *words, "--workers", "1", "--out", str(tmp_path / "data")]) == 0
    return tmp_path / "data"


def test_a_folder_for_a_gis_and_back(data, tmp_path):
    """GeoTIFFs hold the pixels in place; labels drawn into the empty layer come back by `tile`."""
    out = tmp_path / "todo"
    (tmp_path / ".tmp-todo" / "tiles").mkdir(parents=True)  # as a killed command leaves it
    assert main(["sample", str(data), "--n", "4", "--out", str(out)]) == 0
    assert not (tmp_path / ".tmp-todo").exists()
    files = sorted((out / "tiles").glob("*.tif"))
    assert len(files) == 4
    by_key = {sample.key: sample for sample in read_dataset(data)}
    for path in files:
        with rasterio.open(path) as file:
            assert np.array_equal(file.read().transpose(1, 2, 0), by_key[path.stem].image)
            assert file.crs == rasterio.crs.CRS.from_string(CRS)
            assert list(file.transform)[:6] == by_key[path.stem].meta["transform"]
    # The layer to draw into, by OGR; its colours and its list of classes, where QGIS looks for them.
    gpkg = out / "labels.gpkg"
    assert {str(name) for name, kind in pyogrio.list_layers(gpkg) if kind} == {"labels", "tiles"}
    info = pyogrio.read_info(gpkg, layer="labels")
    assert (info["features"], list(info["fields"]), info["geometry_type"]) == (0, ["class"], "Polygon")
    outlines = shapely.from_wkb(pyogrio.raw.read(gpkg, layer="tiles")[2])
    assert shapely.area(outlines).tolist() == [256.0] * 4
    with sqlite3.connect(gpkg) as db:
        table, style, default = db.execute(
            "SELECT f_table_name, styleQML, useAsDefault FROM layer_styles"
        ).fetchone()
    db.close()
    tree = ElementTree.fromstring(style.split(">", 1)[1])
    assert (table, default) == ("labels", 1)
    assert [c.get("value") for c in tree.iter("category")] == ["field", "R&D wood"]
    assert [
        o.get("value") for o in tree.find(".//editWidget").iter("Option") if o.get("type") == "QString"
    ] == [
        "field",
        "R&D wood",
    ]
    colours = [o.get("value") for o in tree.iter("Option") if o.get("name") == "color"]
    assert colours == [",".join(map(str, [*colour, 255])) for colour in PALETTE]
    # Draw half of the first tile, as QGIS saves it, and cut the tiles again.
    left, bottom, right, top = outlines[0].bounds
    drawn = shapely.box(left, (bottom + top) / 2, right, top)
    columns = [np.array(["R&D wood"], object)]
    shapes = shapely.to_wkb(np.array([drawn]))
    pyogrio.raw.write(
        gpkg, shapes, columns, ["class"], layer="labels", geometry_type="Polygon", crs=CRS, append=True
    )
    words = ["--source", f"{out}/tiles/*.tif", "--labels", f"{gpkg}|layername=labels", "--size", "32"]
    words += ["--classes", str(tmp_path / "my.yaml"), "--workers", "1", "--out", str(tmp_path / "back")]
    assert main(["tile", *words]) == 0
    back = read_index(tmp_path / "back")
    assert (back.samples, back.labelled, list(back.histogram)) == (4, 1, [0, 512])


def test_what_a_gis_cannot_open_is_refused(data, tmp_path, capsys):
    """A folder that is there, a URL, another file, tiles without a place or classes: one sentence each."""
    plain = write_dataset(tmp_path / "plain", pictures(2))
    for source, out, text in (
        (data, tmp_path, "is there already"),
        (data, "s3://b/x", "is a URL"),
        (data, tmp_path / "a.pdf", "ends in .png, or a folder"),
        (plain, tmp_path / "new", "2 tiles of"),
    ):
        assert main(["sample", str(source), "--n", "2", "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()
