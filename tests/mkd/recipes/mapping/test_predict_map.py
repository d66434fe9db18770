"""From a model folder and a GeoTIFF to a map, and one line about it."""

import numpy as np

from mkd.config.load import load
from mkd.config.schema import PredictRun
from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader, RasterWriter
from mkd.recipes.mapping.predict_map import predict
from tests.helpers.shards import PALETTE

PLACE = (0.5, 0.0, 400000.0, 0.0, -0.5, 5600000.0)


def test_a_map_of_a_scene(runs, tmp_path):
    """The map has the scene's size, CRS and transform and the model's palette; the line gives shares that add up."""
    scene, out = tmp_path / "scene.tif", tmp_path / "map.tif"
    with RasterWriter(scene, 50, 70, 3, "uint8", crs="EPSG:32632", transform=PLACE) as writer:
        writer.write(Window(0, 0, 50, 70), np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    argv = [
        f"model={runs['kd'].out}/model",
        f"input={scene}",
        f"output={out}",
        "tile=32",
        "overlap=8",
        "device=cpu",
    ]
    line = predict(load(PredictRun, "predict_map", argv))
    with RasterReader(out) as reader:
        info = reader.info
    assert (info.height, info.width, info.transform) == (50, 70, PLACE)
    assert "32632" in info.crs
    assert [info.colormap[n][:3] for n in range(3)] == list(PALETTE)
    assert line.startswith(f"{out}: 70 x 50 pixels; field ")
    shares = [float(part.split()[1]) for part in line.split("; ")[1].split(", ")]
    assert abs(sum(shares) - 100) < 0.3
    assert "mean confidence 0." in line
