"""STAC items of models, read by pystac and checked by the extension's own models (stac-model)."""

import json

import pystac
import pytest
from stac_model.schema import MLModelProperties

from mkd.inference.export.onnx_export import ExportOptions
from mkd.inference.export.stac_item import SCHEMA, write_stac_item


@pytest.mark.parametrize("uint8", [False, True])
def test_the_item_is_valid(tmp_path, uint8):
    """pystac reads the item, stac-model takes its properties, input and classes are the model's."""
    (tmp_path / "m.onnx").write_bytes(b"weights")
    write_stac_item(
        tmp_path / "i.json", tmp_path / "m.onnx", "m", ("a", "b"), "fpn on lite0", ExportOptions(96, 5, uint8)
    )
    text = json.loads((tmp_path / "i.json").read_text(encoding="utf-8"))
    item = pystac.Item.from_dict(text)
    assert SCHEMA in item.stac_extensions
    assert item.assets["model"].href == "m.onnx"
    properties = MLModelProperties.model_validate(item.properties)
    assert properties.input[0].input.shape == [-1, 5, 96, 96]
    assert properties.input[0].input.data_type == ("uint8" if uint8 else "float32")
    assert [c.name for c in properties.output[0].classes] == ["a", "b"]
    assert properties.output[0].result.shape == [-1, 2, 96, 96]
    assert item.properties["mlm:output"][0]["description"] == "softmax(logits / 1)"


def test_the_id_follows_the_weights(tmp_path):
    """Equal files have equal ids, others have others."""
    ids = []
    for content in (b"weights", b"weights", b"others"):
        (tmp_path / "m.onnx").write_bytes(content)
        write_stac_item(tmp_path / "i.json", tmp_path / "m.onnx", "m", ("a", "b"), "x", ExportOptions(96, 3))
        ids.append(json.loads((tmp_path / "i.json").read_text(encoding="utf-8"))["id"])
    assert ids[0] == ids[1] != ids[2]
