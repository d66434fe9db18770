"""Tiles of random bytes, and folders and sources of them, for the tests of reading shards."""

import random
import threading

from mkd.dataset.index import read_index
from mkd.dataset.tile_source import TileSource
from mkd.storage.folder import Folder

COUNTS = [40, 1, 59]


def make_tiles(count, size=3000):
    """Make tiles of random bytes; every third has a label."""
    rng = random.Random(0)
    tiles = [
        {"jpg": rng.randbytes(size + n), "label.png": rng.randbytes(50), "json": b'{"n": %d}' % n}
        for n in range(count)
    ]
    return [
        tile if n % 3 == 0 else {"jpg": tile["jpg"], "json": tile["json"]} for n, tile in enumerate(tiles)
    ]


TILES = make_tiles(sum(COUNTS))


class RecordingFolder(Folder):
    """A folder that records which ranges of shards are read, and may change their bytes on the way."""

    def __init__(self, url, patience=5):
        super().__init__(url, patience)
        self.reads, self.change, self.lock = [], lambda data: data, threading.Lock()

    def read(self, name, start=0, stop=None):
        data = super().read(name, start, stop)
        if not name.endswith(".tar"):
            return data
        with self.lock:  # the prefetcher's threads read too
            self.reads.append((name, start, stop))
            return self.change(data)


def open_source(folder, *cache):
    return TileSource(folder, read_index(folder), *cache)
