"""Pictures of validation tiles: what stands where. That runs have them: `tests/mkd/recipes/test_run.py`."""

import numpy as np
import torch

from mkd.inference.validation_picture import SIDE, TILES, spread, validation_picture
from mkd.loader.loader import TileSet
from mkd.pixel_scale import PLAIN
from tests.helpers.shards import pictures, write_dataset


class Constant(torch.nn.Module):
    """Calls every pixel class 1."""

    def forward(self, images):
        """Return logits (B,3,H,W)."""
        logits = torch.zeros(len(images), 3, *images.shape[2:])
        logits[:, 1] = 1
        return logits


def test_image_labels_and_prediction_stand_side_by_side(tmp_path):
    """Each third of a row against the tile itself, for tiles smaller than the square; the rest is black."""
    folder = write_dataset(tmp_path / "set", pictures(5, size=(40, 24)))
    tiles = TileSet(str(folder), labelled=True)
    found = validation_picture(Constant(), tiles, 32, PLAIN, torch.device("cpu"))
    chosen = spread(len(tiles), TILES)
    assert found.shape == (len(chosen) * SIDE, 3 * SIDE, 3)
    palette = np.array(tiles.index.palette, np.uint8)
    for row, n in enumerate(chosen):
        item = tiles.tile((0, n))
        image, labels = item.images[0].permute(1, 2, 0).numpy(), item.labels[0].numpy()
        height, width = labels.shape
        square = found[row * SIDE : row * SIDE + height]
        np.testing.assert_array_equal(square[:, :width], image)
        known = labels != 255
        np.testing.assert_array_equal(square[:, SIDE : SIDE + width][known], palette[labels[known]])
        assert (square[:, 2 * SIDE : 2 * SIDE + width] == palette[1]).all()
        assert not found[row * SIDE + height : (row + 1) * SIDE].any()


def test_spread():
    """Ends included, none twice."""
    assert spread(10, 4) == [0, 3, 6, 9]
    assert spread(2, 4) == [0, 1]
    assert spread(1, 4) == [0]
