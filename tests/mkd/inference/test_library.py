"""mkd as a library, as its docstring writes it: equal to the map that launch/predict_map.py makes."""

import shutil

import numpy as np
import pytest

import mkd
from mkd import load, predict
from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader, RasterWriter
from mkd.model_folder import ModelCard, save_model, set_temperature
from mkd.models.architecture import Architecture
from mkd.models.build import build
from tests.helpers.maps import predict_map

FPN = Architecture("tf_efficientnet_lite0", decoder="fpn", lateral_channels=8, decoder_channels=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder of a small network with random weights, trained (it says) on crops of 64."""
    folder = tmp_path_factory.mktemp("run") / "model"
    card = ModelCard(FPN, ("field", "wood"), ((0, 0, 0), (9, 99, 9)), crop=64)
    save_model(folder, build(FPN, 2, seed=1).state_dict(), card)
    return folder


def test_an_array_gives_the_map_of_the_command(folder, tmp_path):
    """Classes equal the map's, confidence to its 8 bits."""
    image = np.random.default_rng(0).integers(0, 256, (90, 110, 3), dtype=np.uint8)
    model = load(folder, device="cpu")
    found = predict(model, image)
    with RasterWriter(tmp_path / "in.tif", 90, 110, 3, "uint8") as writer:
        writer.write(Window(0, 0, 90, 110), image)
    predict_map(
        model.network, model.card.palette, tmp_path / "in.tif", tmp_path / "map.tif", tile=64, overlap=16
    )
    with RasterReader(tmp_path / "map.tif") as reader:
        stored = reader.read(Window(0, 0, 90, 110))
    sure = np.abs(found.confidence - 0.5) > 1e-3
    assert sure.mean() > 0.5
    np.testing.assert_array_equal(found.classes[sure], stored[..., 0][sure])
    assert np.abs(stored[..., 1] - np.minimum(254, 255 * found.confidence)).max() <= 1
    assert model.classes == ("field", "wood")
    assert found.classes.dtype == np.uint8


def test_confidence_is_at_the_cards_temperature(folder, tmp_path):
    """Two classes: q = p^(1/T) / (p^(1/T) + (1 - p)^(1/T)); the classes stay."""
    image = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    plain = predict(load(folder, device="cpu"), image)
    shutil.copytree(folder, tmp_path / "model")
    set_temperature(tmp_path / "model", 3.0, {})
    found = predict(load(tmp_path / "model", device="cpu"), image)
    np.testing.assert_array_equal(found.classes, plain.classes)
    p, q = (part ** (1 / 3) for part in (plain.confidence, 1 - plain.confidence))
    np.testing.assert_allclose(found.confidence, p / (p + q), atol=1e-4)


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((3, 8, 8), np.uint8)]
)
def test_other_arrays_are_refused(folder, image):
    """The message names what was given and what to give."""
    with pytest.raises(ValueError, match=r"give uint8 of shape \(height, width, 3\)"):
        predict(load(folder, device="cpu"), image)


def test_the_package_gives_its_functions_by_name():
    """load is found, a misspelt name is not."""
    assert mkd.load is load
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        mkd.lode  # noqa: B018
