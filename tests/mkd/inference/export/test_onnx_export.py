"""Exported networks under onnxruntime: equal to torch, any batch, with the metadata that QGIS plugins read."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from mkd.inference.export.onnx_export import ExportOptions, export_onnx
from mkd.models.architecture import Architecture
from mkd.models.build import build

NAMES = ("field", "forêt", "洱海")


def network(**more):
    torch.manual_seed(0)
    fields = {
        "backbone": "tf_efficientnet_lite0",
        "decoder": "fpn",
        "decoder_channels": 32,
        "lateral_channels": 16,
    }
    model = build(Architecture(**(fields | more)), len(NAMES)).eval()
    with torch.no_grad():
        for module in model.modules():  # statistics of a network that has seen data
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model


def run(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"image": images})[0]


def test_the_temperature_is_inside(tmp_path):
    """Probabilities are softmax(logits / T); the class of each pixel is that of T = 1."""
    model = network()
    export_onnx(model, NAMES, tmp_path / "m.onnx", ExportOptions(64, 3, temperature=2.5))
    images = np.random.default_rng(1).random((2, 3, 64, 64), dtype=np.float32)
    with torch.inference_mode():
        logits = model(torch.from_numpy(images))
    found = run(tmp_path / "m.onnx", images)
    np.testing.assert_allclose(found, (logits / 2.5).softmax(1).numpy(), atol=1e-4)
    assert np.abs(found - logits.softmax(1).numpy()).max() > 0.01


@pytest.mark.parametrize("uint8", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_probabilities_equal_torch(tmp_path, uint8, batch):
    """Softmax of the network to 1e-4, for batches that the export has not seen."""
    model = network()
    export_onnx(model, NAMES, tmp_path / "m.onnx", ExportOptions(64, 3, uint8))
    pixels = np.random.default_rng(1).integers(0, 256, (batch, 3, 64, 64)).astype(np.uint8)
    images = pixels.astype(np.float32) / 255
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).softmax(1).numpy()
    found = run(tmp_path / "m.onnx", pixels if uint8 else images)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert found.std() > 0.01


def test_a_deeplab_with_attention_is_exported_too(tmp_path):
    """ASPP's image pooling and polarized self-attention survive the export."""
    model = network(decoder="deeplab", psa="paper", backbone="hrnet_w18_small", decoder_channels=16)
    export_onnx(model, NAMES, tmp_path / "m.onnx", ExportOptions(96, 3))
    images = np.random.default_rng(1).random((1, 3, 96, 96), dtype=np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).softmax(1).numpy()
    np.testing.assert_allclose(run(tmp_path / "m.onnx", images), expected, atol=1e-4)


def test_metadata_and_versions(tmp_path):
    """Opset 17, IR at most 9, static tile, and each value as JSON."""
    export_onnx(network(), NAMES, tmp_path / "m.onnx", ExportOptions(64, 3, resolution=12.5))
    made = onnx.load(tmp_path / "m.onnx")
    assert [(o.domain, o.version) for o in made.opset_import] == [("", 17)]
    assert made.ir_version <= 9
    dims = made.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", 3, 64, 64]
    told = {p.key: json.loads(p.value) for p in made.metadata_props}
    assert told["model_type"] == "Segmentor"
    assert told["class_names"] == {"0": "field", "1": "forêt", "2": "洱海"}
    assert (told["tiles_size"], told["tile_size"], told["tiles_overlap"]) == (64, 64, 25)
    assert told["resolution"] == 12.5
    assert told["standardization_mean"] == [0.0, 0.0, 0.0]
    assert told["standardization_std"] == [1.0, 1.0, 1.0]


def test_no_resolution_is_no_key(tmp_path):
    """An unknown ground size is left out and not guessed."""
    told = export_onnx(network(), NAMES, tmp_path / "m.onnx", ExportOptions(64, 3))
    assert "resolution" not in told
