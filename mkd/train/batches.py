"""Batches as they lie in shards -> the batches that a step trains on, on the training device."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from mkd.distributed.world import World
from mkd.labels import IGNORE
from mkd.loader.augment import Geometry, generators, weak_colour
from mkd.loader.bad_tiles import BadTileBudget
from mkd.loader.batch import Batch, to_unit
from mkd.loader.loader import TileSet, stream
from mkd.loader.sampler import Sampler
from mkd.pixel_scale import PLAIN, PixelScale

LABELLED, UNLABELLED = 0, 1  # stream numbers: the same tile in two streams gets two views
ENDLESS = 2**40  # batches
FILTERED = 254  # stands for the pixels that a pseudo-label leaves open, while those outside a tile become 255


@dataclass
class StepBatch:
    """Inputs of one step.

    Attributes:
        images: labelled tiles, float32 (B,bands,S,S), of 8 bits in [0,1]; NaN where a pixel is missing.
        labels: uint8 (B,S,S), 255 = ignore.
        weak: weak views of unlabelled tiles, uint8 (U,3,S,S) or float32 (U,bands,S,S) with NaN where a pixel is
            missing, or None.
        inside: bool (U,S,S), pixels of `weak` that lie inside their tile and are not missing, or None.
        generators: one for each unlabelled tile; its strong view goes on from here.
        strong: V views of each pseudo-labelled tile, float32 (U,V,bands,S,S), else as `images`, or None.
        pseudo: labels of `strong`, uint8 (U,V,S,S), 255 = dropped, or None.
        pixel_count: scalar > 0, pixels of the global batch that L_KD or L_cons is the mean over, or None; a
            micro-batch has its equal part, so that the mean of the micro-batches' losses is the mean over these pixels.
    """

    images: Tensor
    labels: Tensor
    weak: Tensor | None = None
    inside: Tensor | None = None
    generators: list[np.random.Generator] | None = None
    strong: Tensor | None = None
    pseudo: Tensor | None = None
    pixel_count: Tensor | None = None

    def split(self, count: int) -> list[StepBatch]:
        """Return ``count`` micro-batches of equal size, in order; ``count`` divides the number of tiles."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        pixel_count = given.pop("pixel_count", None)
        part = None if pixel_count is None else pixel_count / count
        assert all(len(tiles) % count == 0 for tiles in given.values())
        sizes = {name: len(tiles) // count for name, tiles in given.items()}
        return [
            StepBatch(
                **{k: tiles[n * sizes[k] : (n + 1) * sizes[k]] for k, tiles in given.items()},
                pixel_count=part,
            )
            for n in range(count)
        ]


@dataclass(frozen=True)
class Candidates:
    """One batch of unlabelled tiles, to be labelled by a teacher, or with labels that it has stored.

    Attributes:
        ids: U pairs (epoch, sample).
        weak: weak views, see `StepBatch`.
        inside: bool (U,S,S), pixels of `weak` that lie inside their tile and are not missing.
        generators: one a tile; its strong view goes on from here.
        labels: stored pseudo-labels, uint8 (U,S,S), class ids, 255 = filtered or outside; None asks a teacher.
    """

    ids: list[tuple[int, int]]
    weak: Tensor
    inside: Tensor
    generators: list[np.random.Generator]
    labels: Tensor | None = None


@dataclass(frozen=True)
class BatchStream:
    """Endless deterministic input of a run: calling it with (start, stop) yields the batches of these steps.

    Attributes:
        labelled: tiles with labels.
        unlabelled: tiles without, or None; mixed 1:1, with epochs of their own.
        batch: labelled tiles a step over all ranks (and as many unlabelled ones).
        seed: of order and views.
        geometry: random scale, crop, flips, rotations.
        world: rank, ranks, device.
        workers: decoding processes of each stream.
        bad_tiles: budgets of the labelled and of the unlabelled stream; None lets any damaged tile end the run.
        scale: how pixels become the network's input.
    """

    labelled: TileSet
    unlabelled: TileSet | None
    batch: int
    seed: int
    geometry: Geometry
    world: World
    workers: int
    bad_tiles: tuple[BadTileBudget | None, BadTileBudget | None] = (None, None)
    scale: PixelScale = PLAIN

    def __call__(self, start: int, stop: int) -> Iterator[StepBatch]:
        """Yield this rank's part of the batches of steps ``start`` .. ``stop - 1``; waits for decoding processes."""
        labelled = self._stream(self.labelled, LABELLED, start, stop)
        if self.unlabelled is None:
            for batch in labelled:
                yield self._labelled(batch)
            return
        for batch, other in zip(
            labelled, self._stream(self.unlabelled, UNLABELLED, start, stop), strict=True
        ):
            step_batch, extra = self._labelled(batch), self._candidates(other)
            yield replace(step_batch, weak=extra.weak, inside=extra.inside, generators=extra.generators)

    def candidates(self, start: int) -> Generator[Candidates, None, None]:
        """Yield this rank's batches of unlabelled tiles from the ``start``-th on, without end."""
        assert self.unlabelled is not None
        for batch in self._stream(self.unlabelled, UNLABELLED, start, ENDLESS):
            yield self._candidates(batch)

    def sampler(self, tiles: TileSet, number: int) -> Sampler:
        """Return the order of a stream: ``LABELLED`` or ``UNLABELLED``."""
        return Sampler(
            tiles.shard_counts, self.batch, self.seed + 1009 * number, self.world.rank, self.world.ranks
        )

    def _stream(self, tiles: TileSet, number: int, start: int, stop: int) -> Iterator[Batch]:
        """Open a stream at a batch; closing the iterator ends its decoding processes."""
        return stream(tiles, self.sampler(tiles, number), start, stop, self.workers, self.bad_tiles[number])

    def _labelled(self, batch: Batch) -> StepBatch:
        """Return the views of labelled tiles."""
        batch = batch.to(self.world.device)
        of_tiles = generators(self.seed, LABELLED, batch.ids)
        images, labels = self._crop(batch, batch.labels, of_tiles)
        if images.dtype != torch.uint8:
            labels = labels.masked_fill(images.isnan().any(dim=1), IGNORE)
        return StepBatch(to_unit(images), labels)

    def _candidates(self, batch: Batch) -> Candidates:
        """Return weak views of unlabelled tiles, with their pseudo-labels where the data set has them."""
        assert self.unlabelled is not None
        batch = batch.to(self.world.device)
        of_tiles = generators(self.seed, UNLABELLED, batch.ids)
        # Pixels without a label and pixels outside the tile are both 255: keep them apart through the geometry.
        stored = self.unlabelled.labelled
        given = batch.labels.masked_fill(batch.labels == IGNORE, FILTERED) if stored else batch.labels
        images, marks = self._crop(batch, given, of_tiles)
        if images.dtype != torch.uint8:  # a missing pixel counts as little as one outside the tile
            marks = marks.masked_fill(images.isnan().any(dim=1), IGNORE)
        labels = marks.masked_fill(marks == FILTERED, IGNORE) if stored else None
        return Candidates(batch.ids, weak_colour(images, of_tiles), marks != IGNORE, of_tiles, labels)

    def _crop(
        self, batch: Batch, labels: Tensor, of_tiles: list[np.random.Generator]
    ) -> tuple[Tensor, Tensor]:
        """Return the crops of a batch, tiles of each size together: a crop does not depend on the other tiles."""
        if batch.sizes is None:
            return self.geometry(batch.pixels(self.scale), labels, of_tiles)
        size, count, bands = self.geometry.crop, len(of_tiles), batch.images.shape[1]
        images, marks = None, labels.new_empty(count, size, size)
        for slots, some, their_labels in batch.by_size(self.scale, labels):
            if images is None:
                images = some.new_empty(count, bands, size, size)
            images[slots], marks[slots] = self.geometry(some, their_labels, [of_tiles[n] for n in slots])
        assert images is not None, "a batch has tiles"
        return images, marks
