"""Means over flips and quarter turns against a plain loop, and what they promise."""

import numpy as np
import pytest
import torch
from torch import nn

from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader, RasterWriter
from mkd.inference.windowed import probabilities
from mkd.models.symmetry import SYMMETRIES, mean_softmax
from tests.helpers.maps import predict_map

PALETTE = [(10, 20, 30), (200, 0, 0), (0, 200, 0), (0, 0, 250)]


def network(kernel=5, seed=0):
    """A convolution whose filters have no symmetry."""
    layer = nn.Conv2d(3, len(PALETTE), kernel, padding=kernel // 2)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer.eval()


def images(height=12, width=17, seed=1):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))


def slow(model, x, tta):
    """Sum the views one by one, each written out by torch.flip and torch.rot90."""
    soft = [model(x).softmax(1)]
    if tta != "none":
        soft += [torch.flip(model(torch.flip(x, dims)).softmax(1), dims) for dims in ([2], [3], [2, 3])]
    if tta == "d4":
        for k in (1, 3):
            soft.append(torch.rot90(model(torch.rot90(x, k, [2, 3])).softmax(1), -k, [2, 3]))
            turned = model(torch.rot90(torch.flip(x, [2]), k, [2, 3])).softmax(1)
            soft.append(torch.flip(torch.rot90(turned, -k, [2, 3]), [2]))
    return torch.stack(soft).mean(0)


@pytest.mark.parametrize(("tta", "views"), [("none", 1), ("flips", 4), ("d4", 8)])
@torch.inference_mode()
def test_the_mean_is_that_of_a_plain_loop(tta, views):
    """Each view once, undone before the mean; images need not be square."""
    torch.testing.assert_close(
        mean_softmax(network(), images(), tta), slow(network(), images(), tta), rtol=0, atol=1e-6
    )
    seen = [tuple(view.apply(images()).flatten().tolist()) for view in SYMMETRIES[tta]]
    assert len(set(seen)) == len(seen) == views
    assert all(torch.equal(view.undo(view.apply(images())), images()) for view in SYMMETRIES[tta])


@pytest.mark.parametrize("tta", ["flips", "d4"])
@torch.inference_mode()
def test_an_equivariant_model_gains_nothing(tta):
    """A model that sees one pixel gives the same with and without; one that sees more does not."""
    torch.testing.assert_close(
        mean_softmax(network(1), images(), tta), mean_softmax(network(1), images()), rtol=0, atol=1e-6
    )
    difference = mean_softmax(network(), images(), tta) - mean_softmax(network(), images())
    assert float(difference.abs().max()) > 0.1


@torch.inference_mode()
def test_the_mean_turns_with_the_image():
    """Over all of D4 any model is equivariant: a turned image has the turned probabilities."""
    whole = mean_softmax(network(), images(), "d4")
    for view in SYMMETRIES["d4"]:
        turned = mean_softmax(network(), view.apply(images()), "d4")
        torch.testing.assert_close(turned, view.apply(whole), rtol=0, atol=1e-6)


@pytest.mark.parametrize("tta", ["flips", "d4"])
def test_maps_and_windows_take_the_same_mean(tmp_path, tta):
    """Class and confidence of a map, and the windows of the library, are those of the loop on each window."""
    array = np.random.default_rng(0).integers(0, 256, (24, 33, 3), dtype=np.uint8)
    with RasterWriter(tmp_path / "in.tif", 24, 33, 3, "uint8") as writer:
        writer.write(Window(0, 0, 24, 33), array)
    x = torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        expected = slow(network(), x, tta)[0].numpy()
        library = probabilities(network(), x, 16, tta)
        by_hand = probabilities(lambda part: slow(network(), part, tta).log(), x, 16)
    torch.testing.assert_close(library, by_hand, rtol=0, atol=1e-5)
    predict_map(network(), PALETTE, tmp_path / "in.tif", tmp_path / "map.tif", tile=64, overlap=8, tta=tta)
    with RasterReader(tmp_path / "map.tif") as reader:
        found = reader.read(Window(0, 0, 24, 33))
    first, second = np.sort(expected, axis=0)[[-1, -2]]
    clear = first - second > 1e-4
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found[..., 0][clear], expected.argmax(0)[clear])
    assert np.abs(found[..., 1] - np.minimum(254, 255 * first)).max() <= 1


def test_another_word_is_refused(tmp_path):
    """The sentence has the word and those that are allowed."""
    with pytest.raises(ValueError, match="tta is 'all': give one of none, flips, d4"):
        predict_map(network(), PALETTE, tmp_path / "in.tif", tmp_path / "map.tif", tta="all")
