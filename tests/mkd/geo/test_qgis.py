"""The real QGIS opens what the system writes: colours, names, forms; skipped where it is not installed."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pyogrio
import pytest

from mkd.geo.class_map import ClassMapWriter, Legend
from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader
from mkd.geo.vector.drawing_layers import write_drawing_layers
from mkd.geo.vector.polygon_file import write_polygons
from mkd.geo.vector.polygons import class_polygons

PYTHON = Path("/usr/bin/python3")  # Debian's, which `make qgis` gives QGIS to
LEGEND = Legend(("water & ice", "field", "water"), ((0, 0, 255), (200, 180, 60), (20, 80, 200)))
PLACE = (0.5, 0.0, 400_000.0, 0.0, -0.5, 5_600_000.0)


def has_qgis():
    """Whether the system's Python has QGIS."""
    command = [str(PYTHON), "-c", "import qgis.core"]
    return PYTHON.is_file() and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not has_qgis(), reason="QGIS is not installed: make qgis")
def test_qgis_shows_classes_names_and_forms(tmp_path):
    """A map is shown by its classes, polygons by theirs, and a drawn polygon is saved into the layer for labels."""
    pixels = np.full((64, 64, 2), 200, np.uint8)
    pixels[..., 0] = np.arange(64) // 22
    drawing, shapes, map_path = tmp_path / "labels.gpkg", tmp_path / "polygons.gpkg", tmp_path / "map.tif"
    with ClassMapWriter(map_path, 64, 64, LEGEND, crs="EPSG:32632", transform=PLACE) as writer:
        writer.write(Window(0, 0, 64, 64), pixels)
    with RasterReader(map_path) as reader:
        write_polygons(class_polygons(reader), shapes, LEGEND, reader.info)
    write_drawing_layers(drawing, LEGEND, "EPSG:32632", {"a": (PLACE, 64, 64)})
    command = [
        str(PYTHON),
        str(Path(__file__).with_name("qgis_look.py")),
        *map(str, (map_path, shapes, drawing)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout.splitlines()[-1])
    colours = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in LEGEND.palette]
    assert seen["map_kind"] == "QgsPalettedRasterRenderer"
    assert seen["map"] == [[n, *both] for n, both in enumerate(zip(LEGEND.names, colours, strict=True))]
    assert (seen["no_data"], seen["crs"]) == (255, "EPSG:32632")
    assert seen["polygons"] == [
        [str(n), *both] for n, both in enumerate(zip(LEGEND.names, colours, strict=True))
    ]
    assert seen["polygon_count"] == 3
    assert seen["choices_kind"] == "ValueMap"
    assert seen["choices"] == [[name] for name in LEGEND.names]
    assert seen["colours"] == [list(both) for both in zip(LEGEND.names, colours, strict=True)]
    assert (seen["outlines"], seen["saved"]) == (1, True)
    assert "Warning" not in done.stderr
    assert pyogrio.raw.read(drawing, layer="labels")[3][0].tolist() == ["water"]
