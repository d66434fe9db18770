"""A STAC item of a model, with the machine-learning extension MLM 1.5."""

import hashlib
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mkd.atomic import write_text
from mkd.inference.export.onnx_export import ExportOptions

SCHEMA = "https://stac-extensions.github.io/mlm/v1.5.0/schema.json"


def write_stac_item(
    path: str | Path,
    model: Path,
    name: str,
    classes: tuple[str, ...],
    architecture: str,
    options: ExportOptions,
) -> None:
    """Write the item whole or not at all; its asset is the ONNX file.

    Args:
        path: a JSON file.
        model: the ONNX file.
        name: of the model.
        classes: class names, by id.
        architecture: in a few words.
        options: how the file was exported.
    """
    content, now = model.read_bytes(), datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
    properties: dict[str, Any] = {"datetime": now, "mlm:name": name, "mlm:architecture": architecture}
    properties |= _properties(classes, options)
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [SCHEMA],
        "id": hashlib.sha256(content).hexdigest()[:16],
        "geometry": None,
        "properties": properties,
        "links": [],
        "assets": {
            "model": {
                "href": model.name,
                "type": "application/octet-stream; application=onnx",
                "roles": ["mlm:model", "data"],
                "title": name,
                "mlm:artifact_type": "onnx",
            }
        },
    }
    write_text(path, json.dumps(item, indent=1, ensure_ascii=False) + "\n")


def _properties(classes: tuple[str, ...], options: ExportOptions) -> dict[str, Any]:
    """Return task, input and output as the extension names them."""
    tile, bands = options.tile, [f"band {n}" for n in range(1, options.bands + 1)]
    scaling: list[dict[str, Any]] | None = [{"type": "scale", "value": 255}] * options.bands
    if options.low is not None:
        scaling = [{"type": "min-max", "minimum": low, "maximum": high} for low, high in options.ranges()]
    if options.uint8:
        scaling = None
    return {
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:framework": "ONNX",
        "mlm:pretrained": True,
        "mlm:input": [
            {
                "name": "image",
                "bands": bands,
                "input": {
                    "shape": [-1, options.bands, tile, tile],
                    "dim_order": ["batch", "bands", "height", "width"],
                    "data_type": "uint8" if options.uint8 else "float32",
                },
                "value_scaling": scaling,
                "resize_type": None,
            }
        ],
        "mlm:output": [
            {
                "name": "probabilities",
                "description": f"softmax(logits / {options.temperature:g})",
                "tasks": ["semantic-segmentation"],
                "result": {
                    "shape": [-1, len(classes), tile, tile],
                    "dim_order": ["batch", "class", "height", "width"],
                    "data_type": "float32",
                },
                "classification:classes": [{"value": n, "name": c} for n, c in enumerate(classes)],
                "post_processing_function": None,
            }
        ],
    }
