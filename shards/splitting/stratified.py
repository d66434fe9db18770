"""Few shots in which every class is present: a greedy draw over the classes that each tile holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from mkd.dataset.index import DatasetIndex
from mkd.image_header import MAX_PIXELS
from mkd.labels import IGNORE
from mkd.storage.folder import Folder
from shards.reading.pixels import label_pixels
from shards.reading.shard_reader import read_groups
from shards.splitting.blocks import ranked_pool


def read_classes(
    folder: Folder, index: DatasetIndex, max_pixels: int = MAX_PIXELS
) -> dict[str, frozenset[int]]:
    """Read which class ids the label of each labelled tile holds; images are skipped.

    Args:
        folder: the data set.
        index: its index.
        max_pixels: greatest number of pixels of a label.

    Returns:
        Class ids by key.
    """
    held = {}
    for shard in index.shards:
        for key, group in read_groups(folder, shard, wanted="label.png"):
            if "label.png" in group:
                name = f"{shard.file}, {key}.label.png"
                ids = np.unique(label_pixels(group["label.png"], name, max_pixels, index.labels))
                held[key] = frozenset(int(value) for value in ids if value != IGNORE)
    return held


def draw_stratified(
    keys: Iterable[str], held: Mapping[str, frozenset[int]], number: int, seed: int
) -> set[str]:
    """Draw keys so that each class is in as many drawn tiles as can be, the least frequent one first.

    Each draw takes the class that the fewest drawn tiles hold (of equal ones the one in the fewest tiles at all), and
    of its tiles the one with the most classes that no drawn tile holds; the seed decides between equal tiles. So a
    smaller draw is part of a larger one.

    Args:
        keys: what to draw from.
        held: class ids of each key.
        number: how many, >= 1.
        seed: any whole number.

    Returns:
        The chosen keys.

    Raises:
        ValueError: more than there are.
    """
    pool = ranked_pool(keys, number, seed)
    frequency = Counter(index for key in pool for index in held[key])
    tiles_of = {index: [key for key in pool if index in held[key]] for index in frequency}
    drawn: Counter[int] = Counter()
    chosen: dict[str, None] = {}
    while len(chosen) < number:
        # Tiles that are drawn leave the lists of their classes; a class without tiles is out.
        tiles_of = {
            index: left
            for index, tiles in tiles_of.items()
            if (left := [k for k in tiles if k not in chosen])
        }
        wanted = min(tiles_of, key=lambda index: (drawn[index], frequency[index], index))
        best = max(tiles_of[wanted], key=lambda key: sum(not drawn[index] for index in held[key]))
        chosen[best] = None
        drawn.update(held[best])
    return set(chosen)
