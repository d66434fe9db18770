"""Five bands of 16 bits through the map, its products, the library and the export."""

import base64
import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pyogrio
import pytest
import torch
from PIL import Image

from mkd import load, predict
from mkd.config.load import load as read_command
from mkd.config.schema import ExportRun, PredictRun
from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader, RasterWriter
from mkd.loader.batch import scaled, to_unit
from mkd.model_folder import ModelCard, save_model
from mkd.models.architecture import Architecture
from mkd.models.build import build
from mkd.pixel_scale import PixelScale
from mkd.recipes.mapping.export import export
from mkd.recipes.mapping.predict_map import predict as predict_command
from mkd.report.drawing.thumbnails import map_view
from tests.helpers.shards import CLASSES, PALETTE

PLACE = (0.5, 0.0, 400000.0, 0.0, -0.5, 5600000.0)
HEIGHT, WIDTH = 80, 96
SCALE = PixelScale(5, "uint16", (100.0, 200.0, 50.0, 0.0, 400.0), (3000.0, 2900.0, 3100.0, 6000.0, 3500.0))


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A model folder of five bands with random weights, a scene with a hole and named bands, and its pixels."""
    folder = tmp_path_factory.mktemp("five")
    fields = {"decoder": "fpn", "lateral_channels": 8, "decoder_channels": 8, "scale": SCALE}
    plan = Architecture("tf_efficientnet_lite0", mean=(0.4,) * 5, std=(0.2,) * 5, **fields)
    network = build(plan, len(CLASSES), seed=0)
    rng = np.random.default_rng(0)
    ground = np.kron(rng.random((10, 12, 5)), np.ones((8, 8, 1)))
    pixels = (300 + 2500 * ground + rng.normal(0, 20, ground.shape)).astype(np.uint16)
    with torch.inference_mode():  # so that all classes occur
        x = to_unit(scaled(torch.from_numpy(pixels).permute(2, 0, 1)[None], None, SCALE))
        network.eval().classifier.weight.mul_(5)
        network.classifier.bias.sub_(network(x).mean((0, 2, 3)))
    card = ModelCard(plan, tuple(CLASSES), tuple(PALETTE), crop=64)
    save_model(folder / "model", network.state_dict(), card)
    pixels[10:30, 20:50] = 0
    pixels[70, 70] = 60_000  # a hot pixel
    more = {"crs": "EPSG:32632", "transform": PLACE, "nodata": 0}
    with RasterWriter(folder / "scene.tif", HEIGHT, WIDTH, 5, "uint16", **more) as writer:
        writer.write(Window(0, 0, HEIGHT, WIDTH), pixels)
        writer._data.descriptions = ("coastal", "Blue", "Green", "Red", "NIR")
    return folder, pixels


@pytest.fixture(scope="module")
def mapped(given):
    """The map with all products."""
    folder, _ = given
    words = [
        f"{key}={folder}/map.{end}"
        for key, end in (("polygons", "gpkg"), ("areas", "csv"), ("preview", "html"))
    ]
    words += [f"model={folder}/model", f"input={folder}/scene.tif", f"output={folder}/map.tif", "device=cpu"]
    predict_command(read_command(PredictRun, "predict_map", words))
    with RasterReader(folder / "map.tif") as reader:
        return reader.read(Window(0, 0, HEIGHT, WIDTH))


def test_polygons_and_areas(given, mapped):
    """Both count the pixels of the map; the hole is in none."""
    folder, _ = given
    counts = np.bincount(mapped[..., 0][mapped[..., 0] != 255], minlength=3)
    assert counts.sum() == HEIGHT * WIDTH - 600
    assert (counts > 0).sum() > 1
    with open(folder / "map.csv", newline="") as file:
        assert [int(row["pixels"]) for row in csv.DictReader(file)] == counts.tolist()
    _, _, _, fields = pyogrio.raw.read(
        folder / "map.gpkg", layer="land_cover", columns=["class_id", "pixels"]
    )
    assert [int(fields[1][fields[0] == n].sum()) for n in range(3)] == counts.tolist()


def test_the_picture_shows_red_green_and_blue(given, mapped):
    """Bands by their names, stretched from the 2nd to the 98th percentile of the known; a hot pixel is cut."""
    folder, pixels = given
    view = map_view(folder / "scene.tif", folder / "map.tif", max_side=200)
    known = (pixels != 0).all(2)
    assert (view.image[~known] == 255).all()
    for shown, band in enumerate((3, 2, 1)):
        values = pixels[..., band].astype(float)
        low, high = np.percentile(values[known], (2, 98))
        expected = np.rint(255 * np.clip((values - low) / (high - low), 0, 1))
        np.testing.assert_array_equal(view.image[..., shown][known], expected[known])
    assert view.image[known].std() > 40
    found = re.findall(r"data:image/(?:png|jpeg);base64,([A-Za-z0-9+/=]+)", (folder / "map.html").read_text())
    sizes = [Image.open(io.BytesIO(base64.b64decode(text))).size for text in found]
    assert sizes == [(WIDTH, HEIGHT)] * 3  # scene, classes, confidence


def test_the_library_gives_the_map(given, tmp_path):
    """`load` and `predict` take (H, W, 5) uint16 and give the command's classes and confidence."""
    folder, pixels = given
    filled = np.maximum(pixels, 1)
    with RasterWriter(tmp_path / "s.tif", HEIGHT, WIDTH, 5, "uint16") as writer:
        writer.write(Window(0, 0, HEIGHT, WIDTH), filled)
    words = [f"model={folder}/model", f"input={tmp_path}/s.tif", f"output={tmp_path}/m.tif", "device=cpu"]
    for tta in ("none", "flips"):
        predict_command(read_command(PredictRun, "predict_map", [*words, f"tta={tta}"]))
        with RasterReader(tmp_path / "m.tif") as reader:
            stored = reader.read(Window(0, 0, HEIGHT, WIDTH))
        model = load(folder / "model", device="cpu")
        found = predict(model, filled, tta=tta)
        assert (found.classes == stored[..., 0]).mean() > 0.999
        assert np.abs(np.minimum(254, 255 * found.confidence) - stored[..., 1]).max() <= 1
    with pytest.raises(ValueError, match=r"give uint16 of shape \(height, width, 5\)"):
        predict(model, filled[..., :3])
    with pytest.raises(ValueError, match="tta is 'all': give one of none, flips, d4"):
        predict(model, filled, tta="all")


@pytest.mark.parametrize("key", ["output", "stac"])
def test_an_export_that_cannot_be_written_is_refused_at_the_start(given, tmp_path, key, monkeypatch):
    """A folder of the file's name and a URL are found before the model is loaded."""
    monkeypatch.setattr("mkd.recipes.mapping.export.factories", None)  # is not asked for a model
    good = {"output": f"{tmp_path}/m.onnx", "stac": f"{tmp_path}/m.json"}
    Path(good[key]).mkdir()
    for bad, said in (
        (good[key], "it is a folder"),
        (f"s3://bkt/{Path(good[key]).name}", "must be on a disk"),
    ):
        words = [f"{name}={value}" for name, value in {**good, key: bad}.items()]
        with pytest.raises((ValueError, OSError), match=said):
            export(read_command(ExportRun, "export", [f"model={given[0]}/model", *words]))


@pytest.mark.parametrize("tile", [64, 96])
def test_the_export_is_the_network(given, tmp_path, tile):
    """onnxruntime gives torch's probabilities to 1e-4; the metadata turn stored values into the input."""
    folder, pixels = given
    words = [f"model={folder}/model", f"output={tmp_path}/m.onnx", f"tile={tile}", f"stac={tmp_path}/m.json"]
    said = export(read_command(ExportRun, "export", words))
    assert f"image (B, 5, {tile}, {tile}) float32" in said
    model = load(folder / "model", device="cpu")
    part = np.zeros((1, 5, tile, tile), np.uint16)
    cut = pixels[:tile, :tile].transpose(2, 0, 1)
    part[0, :, : cut.shape[1], : cut.shape[2]] = cut
    x = to_unit(scaled(torch.from_numpy(part), None, SCALE))
    with torch.inference_mode():
        expected = model.network(x).softmax(1).numpy()
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(None, {"image": x.numpy()})[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert found.std() > 0.01
    told = {p.key: json.loads(p.value) for p in onnx.load(tmp_path / "m.onnx").metadata_props}
    mean, std = (np.array(told[f"standardization_{key}"]).reshape(5, 1, 1) for key in ("mean", "std"))
    stored = (part[0] / 255 - mean) / std
    usual = np.abs(stored) < 2  # hot pixels are cut there, before the network
    np.testing.assert_allclose(stored[usual], x[0].numpy()[usual], atol=1e-4)
    assert usual.mean() > 0.99
    assert (
        json.loads((tmp_path / "m.json").read_text())["properties"]["mlm:input"][0]["input"]["shape"][1] == 5
    )
