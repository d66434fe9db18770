"""Some tiles of a data set as one picture: image, labels and prediction side by side, a row for each tile."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mkd.distributed.engine import autocast
from mkd.geo.band_choice import shown_bands
from mkd.geo.palette import rgb_from_ids, screen_values
from mkd.inference.windowed import probabilities
from mkd.loader.batch import Batch, to_unit
from mkd.loader.loader import TileSet
from mkd.pixel_scale import PixelScale

Picture = NDArray[np.uint8]

TILES = 4
SIDE = 256  # pixels of a tile that are shown, from its upper left corner


@torch.inference_mode()
def validation_picture(
    model: nn.Module, tiles: TileSet, window: int, scale: PixelScale, device: torch.device
) -> Picture:
    """Return up to `TILES` tiles, spread evenly over the data set, as uint8 (rows, 3 columns of at most `SIDE`, 3).

    Args:
        model: images float (B,bands,H,W) in units of `scale` -> logits (B,C,H,W); left in eval mode.
        tiles: labelled tiles.
        window: side of the crops that the model was trained on, pixels.
        scale: how pixels become the model's input.
        device: where the model is.
    """
    model.eval()
    palette, rows = tiles.index.palette, list[Picture]()
    for n in spread(len(tiles), TILES):
        item = tiles.tile((0, n))
        with autocast(device):
            found = probabilities(model, to_unit(item.to(device).pixels(scale)), window)
        ids = found.argmax(dim=1)[0].to(torch.uint8).cpu().numpy()
        columns = [
            tile_colours(item, tiles),
            *(rgb_from_ids(i, palette) for i in (item.labels[0].numpy(), ids)),
        ]
        rows.append(np.concatenate([_cut(column) for column in columns], axis=1))
    return np.concatenate(rows, axis=0)


def spread(count: int, most: int) -> list[int]:
    """Return the numbers of at most ``most`` of ``count`` tiles, spread evenly."""
    chosen: list[int] = np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()
    return chosen


def tile_colours(item: Batch, tiles: TileSet) -> Picture:
    """Return a tile (H,W,3) for people, see `shown_bands`; beyond 8 bits from the low to the high of its data set."""
    stored: NDArray[Any] = item.images[0].permute(1, 2, 0).contiguous().numpy()
    bands = list(shown_bands((), stored.shape[2]))
    known = None if item.valid is None else item.valid[0].numpy() != 0
    if stored.dtype == np.uint8:
        return screen_values(stored[..., bands], known, eight_bits=True)
    statistics = tiles.index.statistics
    assert statistics is not None, "the models were trained with them"
    ends = np.array(statistics.low)[bands], np.array(statistics.high)[bands]
    return screen_values(stored[..., bands], known, eight_bits=False, ends=ends)


def _cut(picture: Picture) -> Picture:
    """Return the upper left corner in a square of `SIDE` pixels, black where the tile is smaller."""
    square = np.zeros((SIDE, SIDE, 3), np.uint8)
    part = picture[:SIDE, :SIDE]
    square[: part.shape[0], : part.shape[1]] = part
    return square
