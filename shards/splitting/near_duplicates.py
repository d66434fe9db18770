"""Near-duplicates: tiles of different parts that show the same picture, found without comparing all pairs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mkd.dataset.codec import LABEL
from mkd.dataset.index import ShardInfo
from mkd.dataset.shard_record import read_matching_record
from mkd.geo.place.footprints import Ints
from mkd.image_header import MAX_PIXELS
from mkd.storage.folder import Folder
from shards.process_pool import map_in_processes
from shards.progress import pluralize, progress
from shards.reading.contact_sheet import Card, Sheet, draw_contact_sheet
from shards.reading.tile_reader import read_tile, stretch_to_rgb8
from shards.splitting.image_hash import BITS, Bytes, HashTask, ShardHashes, hash_shard

LIMIT = 10  # bits of 128 in which near-duplicates differ at most
PICTURE = "near_duplicates.png"
_WINDOW = 64  # neighbours that a hash is compared with in each order, whatever the number of tiles
_PAIRS_DRAWN = 24

Shards = Mapping[str, tuple[Folder, Sequence[ShardInfo]]]  # folder and shards of each part


class HashedTile(NamedTuple):
    """A tile that was hashed: its part, its place in its shard, and its key."""

    part: str
    shard: int
    row: int
    key: str


@dataclass(frozen=True, eq=False)
class NearDuplicates:
    """Tiles of different parts that look the same.

    Attributes:
        counts: tiles of one part that look like a tile of another, by (part, other part).
        pairs: one pair for each two pictures that look the same, the nearest first: bits that differ, two tiles.
        flat: tiles too flat to be compared, such as calm water.
    """

    counts: Mapping[tuple[str, str], int]
    pairs: Sequence[tuple[int, HashedTile, HashedTile]]
    flat: int


def find_near_duplicates(shards: Shards, workers: int = 1, max_pixels: int = MAX_PIXELS) -> NearDuplicates:
    """Compare the pictures of some parts.

    Args:
        shards: folder and shards of each part, the strictest first: a test tile is counted against training tiles.
        workers: processes, each decoding whole shards.
        max_pixels: greatest number of pixels of a tile; larger ones are refused before they are decoded.

    Raises:
        ValueError: a damaged tile, naming shard and key.
    """
    tiles: list[HashedTile] = []
    hashes, flat, numbers = [], [], []
    for number, (part, (folder, infos)) in enumerate(shards.items()):
        for shard, found in enumerate(_hash_part(part, folder, infos, workers, max_pixels)):
            tiles += [HashedTile(part, shard, row, key) for row, key in enumerate(found.keys)]
            hashes.append(found.hashes)
            flat.append(found.flat)
            numbers.append(np.full(len(found.keys), number, np.int64))
    bits, dull, parts = np.concatenate(hashes), np.concatenate(flat), np.concatenate(numbers)
    seen = np.flatnonzero(~dull)
    # Each picture once a part, or thousands of equal tiles would hide others from each other.
    unique, first, place = np.unique(
        np.column_stack([bits[seen], parts[seen].astype(np.uint8)]),
        axis=0,
        return_index=True,
        return_inverse=True,
    )
    one, other, distance = near_pairs(unique[:, :-1], unique[:, -1].astype(np.int64))
    names, counts, place = list(shards), {}, place.ravel()
    for strict, a in enumerate(names):
        for loose in range(strict + 1, len(names)):
            found_in = unique[one, -1] == strict
            mine = one[found_in & (unique[other, -1] == loose)]
            counts[a, names[loose]] = int(np.isin(place, mine).sum())
    pairs = [
        (int(distance[n]), tiles[seen[first[one[n]]]], tiles[seen[first[other[n]]]])
        for n in np.lexsort((other, one, distance))[:_PAIRS_DRAWN]
    ]
    return NearDuplicates(counts, pairs, int(dull.sum()))


def near_pairs(hashes: Bytes, parts: Ints) -> tuple[Ints, Ints, Ints]:
    """Find pairs of hashes of different parts that differ in at most `LIMIT` bits.

    Hashes that agree in one of 8 pieces of 16 bits are neighbours in the order of that piece; each is compared
    with the next 64 in each order. So the cost grows with the number of tiles, not with its square. Up to 7 bits
    cannot hide a pair, as one of the pieces is the same; of pairs with 8 to 10 bits a few are missed.

    Args:
        hashes: (N, 16) uint8, different within a part.
        parts: (N,) part of each.

    Returns:
        Numbers of the two, that of the lower part first, and the bits that differ; each pair once.
    """
    bits_of = np.array([bin(value).count("1") for value in range(256)], np.uint8)
    pieces = np.ascontiguousarray(hashes).view(np.uint16)
    halves, found = np.ascontiguousarray(hashes).view(np.uint64), [np.empty((0, 3), np.int64)]
    for piece in pieces.T:
        order = np.lexsort((halves[:, 0], halves[:, 1], piece))
        for step in range(1, min(_WINDOW, len(order) - 1) + 1):
            a, b = order[:-step], order[step:]
            same = piece[a] == piece[b]
            if not same.any():
                break
            a, b = a[same & (parts[a] != parts[b])], b[same & (parts[a] != parts[b])]
            distance = bits_of[hashes[a] ^ hashes[b]].sum(axis=1, dtype=np.int64)
            near = distance <= LIMIT
            swap = parts[a] > parts[b]
            pair = np.stack([np.where(swap, b, a), np.where(swap, a, b), distance], axis=1)
            found.append(pair[near])
    one, other, distance = np.unique(np.concatenate(found), axis=0).T
    return one, other, distance


def draw_pairs(shards: Shards, found: NearDuplicates, max_pixels: int = MAX_PIXELS) -> bytes:
    """Draw the pairs that look most alike, side by side, as a PNG."""
    cards = []
    for distance, one, other in found.pairs:
        images = []
        for tile in (one, other):
            folder, infos = shards[tile.part]
            record = read_matching_record(folder, infos[tile.shard])
            entry = record.tiles[tile.row]
            image = entry._replace(members={k: m for k, m in entry.members.items() if k != LABEL})
            found_tile = read_tile(folder, infos[tile.shard], image, max_pixels)
            images.append(stretch_to_rgb8(found_tile.image))
        title, line = f"{one.part} {one.key}", f"{other.part} {other.key} · {distance} of {BITS} bits differ"
        cards.append(Card(title, line, images[0], None, images[1]))
    counted = [f"{pluralize(n, 'tile')} of {a} like one of {b}" for (a, b), n in found.counts.items() if n]
    sheet = Sheet("Near-duplicates across parts", " · ".join(counted), (), (), (), False)
    buffer = io.BytesIO()
    draw_contact_sheet(sheet, cards).save(buffer, "PNG")
    return buffer.getvalue()


def _hash_part(
    part: str, folder: Folder, infos: Sequence[ShardInfo], workers: int, max_pixels: int
) -> list[ShardHashes]:
    """Hash the shards of a part; memory:// belongs to one process."""
    tasks = [HashTask(folder.url, info, max_pixels) for info in infos]
    count = 1 if folder.url.startswith("memory://") else workers
    results = progress(
        map_in_processes(hash_shard, tasks, count), len(tasks), f"pictures of {part}", "shards"
    )
    found: Mapping[str, ShardHashes] = {hashes.file: hashes for hashes in results}
    return [found[info.file] for info in infos]
