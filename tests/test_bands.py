"""Images of any bands from a GeoTIFF to a map: tiles, training, labels of a teacher, evaluation, report."""

import json

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

from mkd.config.load import load
from mkd.config.schema import EvaluateRun, KdRun, PredictRun, SemiRun, SupervisedRun, TeacherLabel
from mkd.dataset.index import read_index
from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader
from mkd.model_folder import load_model, read_card
from mkd.recipes.distill import kd
from mkd.recipes.evaluate import evaluate
from mkd.recipes.evaluation_report import evaluation_report
from mkd.recipes.label_dataset import label
from mkd.recipes.mapping.predict_map import predict
from mkd.recipes.semi import semi
from mkd.recipes.supervised import supervised
from tests.helpers.processes.jobs import tile_into

SIDE = 96  # pixels of a scene
HOLE = (slice(10, 30), slice(40, 60))  # without data
CLASSES = """
name: two
classes: [low, high]
palette: [[0, 0, 0], [255, 255, 255]]
masks: ids
layout: {images: '*.tif', masks: null}
source: drawn
"""
SMALL = [
    "model=lite0",
    "model.pretrained=null",
    "data.crop=32",
    "data.batch=2",
    "data.workers=0",
    "device=cpu",
]
SMALL += ["log_every=1", "val_every=3"]


def scene(path, bands, dtype, seed=0, under=0.0, missing=True):
    """Write a scene in which class 1 is bright in the last band, and its labels; return its pixels."""
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.integers(0, 2, (6, 6)), np.ones((16, 16))).astype(np.uint8)
    pixels = rng.uniform(0.2, 0.4, (bands, SIDE, SIDE))
    pixels[-1] += 0.4 * truth
    top = {"uint8": 250, "uint16": 4000, "int16": 3000, "float32": 1.0}[dtype]
    pixels = (pixels * top).astype(dtype)
    place = {"crs": "EPSG:32633", "transform": from_origin(5e5, 5e6, 0.1, 0.1), "driver": "GTiff"}
    place |= {"height": SIDE, "width": SIDE}
    if missing:
        pixels[:, HOLE[0], HOLE[1]] = np.asarray(under).astype(dtype)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", count=bands, dtype=dtype, **place) as out,
    ):
        out.write(pixels)
        out.colorinterp = [rasterio.enums.ColorInterp.gray] * bands
        if missing:
            mask = np.ones((SIDE, SIDE), bool)
            mask[HOLE] = False
            out.write_mask(mask)
    with rasterio.open(path.with_name(path.stem + "_l.tif"), "w", count=1, dtype="uint8", **place) as out:
        out.write(truth[None])
    return pixels


def data_sets(folder, bands, dtype, **more):
    """Tile a scene with and without labels; return the two folders."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.yaml").write_text(CLASSES)
    scene(folder / "a.tif", bands, dtype, **more)
    tile_into(folder / "a.tif", folder / "classes.yaml", folder / "l", "{stem}_l.tif", size=32)
    tile_into(folder / "a.tif", folder / "classes.yaml", folder / "u", size=32)
    return folder / "l", folder / "u"


def train(out, labelled, *more, run=SupervisedRun, stage="supervised"):
    """Run a stage for three steps; return its run folder."""
    recipe = {"supervised": supervised, "kd": kd, "semi": semi}[stage]
    words = [w for w in SMALL if stage != "semi" or not w.startswith("model")]
    words += [f"out={out}", f"data.labelled={labelled}", f"data.val={labelled}", "steps=3", *more]
    return recipe(load(run, stage, words))


def start(out, labelled, *more):
    """Train a network from random weights."""
    return train(out, labelled, "student_init=random", *more)


def map_of(model, raster, output, **more):
    """Predict a map and return its bands."""
    predict(PredictRun(model=str(model), input=[str(raster)], output=str(output), device="cpu", **more))
    with RasterReader(output) as reader:
        return reader.read(Window(0, 0, SIDE, SIDE))


@pytest.mark.parametrize(("bands", "dtype"), [(5, "uint16"), (4, "uint8"), (3, "float32"), (6, "int16")])
def test_tile_train_evaluate_map(tmp_path, bands, dtype):
    """A GeoTIFF of any bands becomes tiles, a model, results, a page and a map; the numbers stay the index's."""
    labelled, _ = data_sets(tmp_path, bands, dtype)
    run = start(tmp_path / "run", labelled)
    index, card = read_index(labelled), read_card(run / "model")
    assert card.architecture.scale.kind == (bands, dtype)
    assert card.architecture.scale.low == index.statistics.low
    assert (card.architecture.mean, card.architecture.std) == (index.statistics.mean, index.statistics.std)
    out = tmp_path / "results.json"
    page = str(tmp_path / "report.html")
    asked = EvaluateRun(
        model=[str(run / "model")], data=str(labelled), out=str(out), device="cpu", report=page
    )
    found = evaluate(asked)
    counted = sum(sum(row) for row in found["confusion"])
    assert counted == SIDE * SIDE - 400  # the hole is in no metric
    evaluation_report(asked)
    first = map_of(run / "model", tmp_path / "a.tif", tmp_path / "map.tif")
    missing = np.zeros((SIDE, SIDE), bool)
    missing[HOLE] = True
    assert np.array_equal(first[..., 0] == 255, missing)
    scene(tmp_path / "b.tif", bands, dtype, under=120)  # another content below the mask
    assert np.array_equal(map_of(run / "model", tmp_path / "b.tif", tmp_path / "b_map.tif"), first)


def test_stages_of_five_bands(tmp_path):
    """KD, the semi-supervised stage with its own teacher, and stored pseudo-labels take five bands of 16 bits."""
    labelled, unlabelled = data_sets(tmp_path, 5, "uint16")
    words = [
        "kd.student_init=teacher",
        "kd.teacher_epochs=0.1",
        f"data.unlabelled={unlabelled}",
        "kd.tiles=all",
        "model.pretrained=bundled",
    ]
    run = train(tmp_path / "kd", labelled, *words, run=KdRun, stage="kd")
    model = run / "model"
    words = [f"semi.start={model}", f"data.unlabelled={unlabelled}", "semi.confidence=0.1", "semi.paste=0.5"]
    after = train(tmp_path / "semi", labelled, *words, run=SemiRun, stage="semi")
    assert read_card(after / "model").architecture == read_card(model).architecture
    rows = [json.loads(line) for line in (after / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
    stored = tmp_path / "pseudo"
    label(TeacherLabel(data=str(unlabelled), out=str(stored), model=str(model), confidence=0.1, device="cpu"))
    index = read_index(stored)
    assert (index.bands, index.dtype, index.missing_pixels) == (5, "uint16", 400)
    words = [f"semi.start={model}", f"data.pseudo={stored}", "teacher.kind=offline"]
    train(tmp_path / "offline", labelled, *words, run=SemiRun, stage="semi")


def test_what_is_missing_does_not_matter_in_training(tmp_path):
    """Two contents below the masks of labelled and unlabelled tiles: the same weights after all stages."""
    weights = []
    for name, under in (("a", 3), ("b", 200)):
        labelled, unlabelled = data_sets(tmp_path / name, 3, "uint8", under=under)
        run = start(tmp_path / name / "run", labelled, "model.mean=null")
        words = [f"semi.start={run}/model", f"data.unlabelled={unlabelled}", "semi.confidence=0.1"]
        after = train(tmp_path / name / "semi", labelled, *words, run=SemiRun, stage="semi")
        weights.append(load_model(after / "model")[0].state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_other_bands_between_stages(tmp_path):
    """An RGB model goes on with five bands: old filters stay, new ones start as their mean; said."""
    rgb, _ = data_sets(tmp_path / "rgb", 3, "uint8", missing=False)
    more, _ = data_sets(tmp_path / "more", 5, "uint8")
    source = start(tmp_path / "source", rgb, "ohem.threshold=null")
    words = [f"kd.source={source}/model", f"kd.source_data={rgb}", "kd.teacher_epochs=0.1"]
    run = train(tmp_path / "kd", more, *words, run=KdRun, stage="kd")
    teacher = load_model(run / "teacher")[0].state_dict()
    old = load_model(source / "model")[0].state_dict()
    name = "backbone.body.conv_stem.weight"
    assert torch.equal(teacher[name][:, :3], old[name])
    for band in (3, 4):
        torch.testing.assert_close(teacher[name][:, band], old[name].mean(1))
    numbers, before = read_card(run / "model").architecture, read_card(source / "model").architecture
    assert numbers.mean[:3] == before.mean
    assert numbers.mean[3:] == read_index(more).statistics.mean[3:]
    back = train(tmp_path / "back", rgb, f"student_init={run}/model")
    assert read_card(back / "model").architecture.scale.plain


def test_a_set_of_other_bands_is_refused(tmp_path):
    """Another count or type is one sentence with both, in each stage that reads it."""
    five, _ = data_sets(tmp_path / "five", 5, "uint16")
    _, four = data_sets(tmp_path / "four", 4, "uint8")
    run = start(tmp_path / "run", five)
    said = "data.unlabelled=.* has 4 bands of uint8, but the network takes 5 bands of uint16: .*--bands"
    words = [f"semi.start={run}/model", f"data.unlabelled={four}"]
    with pytest.raises(ValueError, match=said):
        train(tmp_path / "semi", five, *words, run=SemiRun, stage="semi")
    with pytest.raises(ValueError, match="a.tif holds uint8 values, allowed is uint16"):
        map_of(run / "model", tmp_path / "four/a.tif", tmp_path / "map.tif")
    asked = EvaluateRun(
        model=[str(run / "model")], data=str(tmp_path / "four/l"), out=str(tmp_path / "r.json")
    )
    with pytest.raises(ValueError, match="data=.* has 4 bands of uint8, but the network takes 5"):
        evaluate(asked)


def test_bands_of_a_map_by_name(tmp_path):
    """`bands=` takes numbers and the names that the raster has; a name that it lacks is told with those it has."""
    labelled, _ = data_sets(tmp_path, 3, "uint16", missing=False)
    model = start(tmp_path / "run", labelled) / "model"
    pixels = scene(tmp_path / "a.tif", 3, "uint16", missing=False)
    with rasterio.open(tmp_path / "a.tif") as data:
        profile = data.profile
    profile["count"] = 4
    with rasterio.open(tmp_path / "b.tif", "w", **profile) as out:
        out.write(np.concatenate([pixels[1:], pixels[:1], pixels[:1]]))
        out.descriptions = ("green", "NIR", "red", None)
    wanted = map_of(model, tmp_path / "a.tif", tmp_path / "a_map.tif")
    for bands in (["3", "1", "2"], ["Red", "green", "nir"]):
        found = map_of(model, tmp_path / "b.tif", tmp_path / "b_map.tif", bands=bands)
        assert np.array_equal(found, wanted)
    with pytest.raises(ValueError, match="no band named 'swir'.*green, NIR, red"):
        map_of(model, tmp_path / "b.tif", tmp_path / "c.tif", bands=["red", "green", "swir"])
