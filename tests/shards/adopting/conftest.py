"""A class file for shards of others."""

import json

import pytest

from tests.helpers.shards import CLASSES, PALETTE


@pytest.fixture
def classfile(tmp_path):
    """Give a class file whose masks are class ids."""
    path = tmp_path / "classes.yaml"
    content = {"name": "toy", "classes": list(CLASSES), "palette": [list(c) for c in PALETTE], "masks": "ids"}
    content |= {"layout": {"images": "*.jpg", "masks": None}, "source": "made for a test"}
    path.write_text(json.dumps(content))  # JSON is YAML
    return path
