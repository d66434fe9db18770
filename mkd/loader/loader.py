"""Yields batches of uint8 tensors in the sampler's order; a resume opens no shard that it does not need."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mkd.dataset.index import DatasetIndex, read_index
from mkd.dataset.tile_decoder import DatasetSpec, TileDecoder
from mkd.documents import mapping, parse_json
from mkd.image_header import MAX_PIXELS
from mkd.loader.bad_tiles import BadTileBudget
from mkd.loader.batch import Batch, channels_first, to_batch
from mkd.loader.sampler import Sampler
from mkd.loader.workers.pool import Block, DecodedBatch, DecodingPool, Pair, prefetch_blocks
from mkd.loader.workers.shared_buffers import BufferLayout

PREFETCH_BATCHES = 64  # batches of `in_order` that are prefetched together


class TileSet:
    """A map-style data set of tiles: one by its number, and batches of them by `stream` and `in_order`.

    Args:
        folder: data set folder, a path or URL, with ``index.json``.
        labelled: read labels; every tile must have one.
        cache: folder for copies of remote shards; None reads the ranges that are needed.
        cache_bytes: size that the cache may reach.
        max_pixels: greatest number of pixels of a tile.

    Raises:
        ValueError: no data set, or no labels where they are needed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        labelled: bool,
        cache: str | os.PathLike[str] | None = None,
        cache_bytes: int = 0,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Read the index only; shards are opened when first used."""
        self.folder, self.labelled = str(folder), labelled
        self.index: DatasetIndex = read_index(folder)
        missing = self.index.samples - self.index.labelled
        if labelled and missing:
            raise ValueError(
                f"{folder}: {missing} of {self.index.samples} tiles have no label; "
                "give a data set whose tiles are all labelled"
            )
        if (pixels := self.index.largest[0] * self.index.largest[1]) > max_pixels:
            raise ValueError(
                f"{folder}: its index says tiles of up to {self.index.largest[0]:,} x {self.index.largest[1]:,} "
                f"pixels, at most {max_pixels:,} pixels are allowed: cut it into smaller tiles with 'shards tile', or "
                f"give max_pixels={pixels} (training: data.max_pixels)"
            )
        cache_folder = None if cache is None else Path(cache)
        self.spec = DatasetSpec(self.folder, self.index, labelled, cache_folder, cache_bytes)

    @property
    def shard_counts(self) -> list[int]:
        """Samples of each shard, for a `Sampler`."""
        return self.index.shards.samples

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.index.samples

    def __getitem__(self, item: Pair) -> tuple[Tensor, Tensor, Pair]:
        """Return image (bands,H,W) as stored, label uint8 (H,W) and the item.

        Raises:
            ValueError: a damaged tile; names shard and key.
        """
        batch = self.tile(item)
        return channels_first(batch.images[0]), batch.labels[0], item

    def tile(self, item: Pair) -> Batch:
        """Return a batch of one tile.

        Raises:
            ValueError: a damaged tile; names shard and key.
        """
        layout = self.layout(1)
        buffer = np.zeros(layout.bytes, np.uint8)
        size = self.decoder.decode(item[1], layout.slot(buffer, 0))
        return to_batch(DecodedBatch([item], buffer, [size], {}), layout)

    def meta(self, sample: int) -> dict[str, Any]:
        """Return a sample's KEY.json with its key under ``key``."""
        meta = mapping(parse_json(self.decoder.source.read(sample, ("json",))["json"]), "KEY.json")
        return {**meta, "key": self.decoder.source.record(sample).key}

    def layout(self, slots: int) -> BufferLayout:
        """Return the layout of a buffer for so many tiles."""
        index = self.index
        return BufferLayout(slots, *index.largest, index.bands, index.dtype, index.missing_pixels > 0)

    @cached_property
    def decoder(self) -> TileDecoder:
        """The decoder of this process, opened when first used."""
        return self.spec.open_decoder()


def stream(
    tiles: TileSet,
    sampler: Sampler,
    start: int,
    stop: int,
    workers: int,
    bad_tiles: BadTileBudget | None = None,
) -> Iterator[Batch]:
    """Yield this rank's batches of steps ``start`` .. ``stop - 1``.

    Args:
        tiles: the data set.
        sampler: the order of samples; entered at ``start`` by arithmetic.
        start: first step.
        stop: step after the last.
        workers: decoding processes; 0 decodes in this one. Batches are the same with any number.
        bad_tiles: counts tiles that cannot be read and are replaced; None allows none.

    Raises:
        ValueError: more bad tiles than the budget, storage that does not answer, or a decoding process that died.
    """
    blocks = (list(sampler.steps(first, end)) for first, end in sampler.blocks(start, stop))
    return _batches(tiles, blocks, sampler.batch // sampler.ranks, workers, bad_tiles)


def in_order(tiles: TileSet, batch: int, workers: int = 0, samples: range | None = None) -> Iterator[Batch]:
    """Yield samples once, in the data set's order; the last batch may be smaller.

    Args:
        tiles: the data set.
        batch: tiles of a batch.
        workers: decoding processes; 0 decodes in this one.
        samples: which ones, such as a `rank_range`; None is all.

    Raises:
        ValueError: any damaged tile, or a decoding process that died.
    """
    chosen = range(len(tiles)) if samples is None else samples
    ranges = [chosen[i : i + batch] for i in range(0, len(chosen), batch)]
    batches = (
        [[(0, n) for n in each] for each in ranges[i : i + PREFETCH_BATCHES]]
        for i in range(0, len(ranges), PREFETCH_BATCHES)
    )
    return _batches(tiles, batches, batch, workers, None)


def rank_range(count: int, rank: int, ranks: int) -> range:
    """Return a rank's range of ``count`` things: neighbours, as many as the others' or one more."""
    return range(count * rank // ranks, count * (rank + 1) // ranks)


def _batches(
    tiles: TileSet, blocks: Iterable[Block], slots: int, workers: int, bad_tiles: BadTileBudget | None
) -> Iterator[Batch]:
    layout = tiles.layout(slots)
    check = partial(
        _to_checked_batch, tiles, layout, bad_tiles or BadTileBudget(tiles.folder, tiles.labelled, len(tiles))
    )
    if workers == 0:
        yield from map(check, _decode_in_process(tiles, blocks, layout))
        return
    with DecodingPool(tiles.spec, layout, workers) as pool:
        # `map` keeps no reference to a batch, as a loop would: its buffer is free as soon as the caller drops it.
        yield from map(check, pool.batches(blocks))


def _decode_in_process(
    tiles: TileSet, blocks: Iterable[Block], layout: BufferLayout
) -> Iterator[DecodedBatch]:
    """Decode in this process, with the same code as `mkd.loader.workers.worker_main`."""

    def prefetch(block: Block) -> None:
        tiles.decoder.source.prefetch([sample for pairs in block for _, sample in pairs])

    for pairs in prefetch_blocks(blocks, prefetch):
        buffer = np.zeros(layout.bytes, np.uint8)
        outs = [layout.slot(buffer, slot) for slot in range(len(pairs))]
        decoded = tiles.decoder.decode_all([sample for _, sample in pairs], outs)
        bad = {slot: bad_tile for slot, (_, bad_tile) in enumerate(decoded) if bad_tile is not None}
        yield DecodedBatch(pairs, buffer, [size for size, _ in decoded], bad)


def _to_checked_batch(
    tiles: TileSet, layout: BufferLayout, bad_tiles: BadTileBudget, decoded: DecodedBatch
) -> Batch:
    """Count the bad tiles of a batch, and return it as tensors; more of them than the budget are a ValueError."""
    for slot, bad in sorted(decoded.bad.items()):
        bad_tiles.add(*decoded.pairs[slot], bad)
    return to_batch(decoded, layout)
