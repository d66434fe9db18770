"""Data sets written plainly, and what a loader must give of them, for the tests of the loader."""

import numpy as np

from mkd.loader.loader import TileSet, stream
from mkd.loader.sampler import Sampler
from tests.helpers.plain import members_of, write_plain

COUNTS = [4, 4, 2]


def pack(folder, pairs, labelled=True, counts=COUNTS, change=None, **more):
    """Write pairs as PNG tiles; `change` maps a tile's number to members that replace or (None) remove its own."""
    tiles = [members_of(image, ids if labelled else None) for image, ids in pairs]
    for n, members in (change or {}).items():
        tiles[n] = {k: v for k, v in (tiles[n] | members).items() if v is not None}
    return write_plain(folder, tiles, [ids.shape for _, ids in pairs], counts, **more)


def assert_tiles(batch, pairs):
    """Check that a batch holds the tiles that its ids name."""
    for image, label, (_, n) in zip(batch.images, batch.labels, batch.ids, strict=True):
        np.testing.assert_array_equal(image.movedim(0, -1), pairs[n][0], err_msg=f"image {n}")
        np.testing.assert_array_equal(label, pairs[n][1], err_msg=f"label {n}")


def read_all(folder, labelled=True, start=0, stop=3, workers=0, bad_tiles=None):
    tiles = TileSet(folder, labelled)
    return list(stream(tiles, Sampler(tiles.shard_counts, 4, seed=1), start, stop, workers, bad_tiles))
