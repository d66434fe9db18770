"""The plain sliding window against a slow reference, and against the windows of our maps."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mkd.benchmarks.predict.plain_map import plain_map, starts
from mkd.geo.grid import Window, covering_windows
from mkd.geo.raster import RasterReader, RasterWriter


@given(tile=st.integers(1, 40), more=st.integers(0, 100), overlap=st.integers(0, 39))
def test_both_sides_predict_the_same_number_of_windows(tile, more, overlap):
    """Windows of the plain map cover the scene, overlap enough, and are as many as ours."""
    overlap, size = min(overlap, tile - 1), tile + more
    found = starts(size, tile, tile - overlap)
    assert (found[0], found[-1]) == (0, size - tile)
    assert all(0 < b - a <= tile - overlap for a, b in zip(found, found[1:], strict=False))
    assert len(found) ** 2 == len(list(covering_windows(size, size, tile, overlap)))


def test_the_map_is_the_argmax_of_summed_probabilities(tmp_path):
    """Pixel by pixel: the softmax of each window that covers it, all with one weight; the place is the scene's."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (24, 40, 3), np.uint8)
    place = {"crs": "EPSG:32618", "transform": (0.5, 0.0, 4e5, 0.0, -0.5, 5e6)}
    with RasterWriter(tmp_path / "scene.tif", 24, 40, 3, "uint8", **place) as out:
        out.write(Window(0, 0, 24, 40), image)
    torch.manual_seed(0)
    # A window's mean reaches its logits, so that windows differ about a pixel.
    conv = torch.nn.Conv2d(3, 4, 1)
    network = torch.nn.Sequential(torch.nn.InstanceNorm2d(3), conv).eval()
    source, output = str(tmp_path / "scene.tif"), str(tmp_path / "map.tif")
    plain_map(network, source, output, classes=4, tile=16, overlap=4, device=torch.device("cpu"))
    total = np.zeros((24, 40, 4))
    for row in (0, 8):
        for col in (0, 12, 24):
            x = image[row : row + 16, col : col + 16].reshape(-1, 3) / 255
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
            z = x @ conv.weight.detach().numpy()[:, :, 0, 0].T + conv.bias.detach().numpy()
            p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
            total[row : row + 16, col : col + 16] += p.reshape(16, 16, 4)
    with RasterReader(output) as reader:
        found = reader.read(Window(0, 0, 24, 40))[..., 0]
        assert (reader.info.bands, reader.info.dtype, tuple(reader.info.transform)) == (
            1,
            "uint8",
            place["transform"],
        )
    # near ties may go either way in float32
    ranked = np.sort(total, axis=-1)
    clear = ranked[..., -1] - ranked[..., -2] > 1e-5
    assert clear.mean() > 0.99
    assert (found == total.argmax(-1))[clear].all()
    assert len(np.unique(found)) > 1
