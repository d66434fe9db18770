"""A batch of tiles as tensors, and its copy on the training device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from mkd.labels import IGNORE
from mkd.loader.workers.pool import DecodedBatch, Pair
from mkd.loader.workers.shared_buffers import BufferLayout


@dataclass
class Batch:
    """Decoded tiles before augmentation; not to be written to.

    Attributes:
        images: uint8 (B,3,H,W) in 0..255, views of channels-last memory.
        labels: uint8 (B,H,W), class ids; 255 = ignore. Unlabelled tiles are 0.
        ids: B pairs (epoch, sample), which seed each sample's own generator. A tile that could not be read is
            replaced by another of its shard and keeps its pair.
        sizes: (height, width) of each tile where they differ: tiles lie at the top left, the rest is to be left out;
            None where all tiles have one size.
    """

    images: Tensor
    labels: Tensor
    ids: list[Pair]
    sizes: list[tuple[int, int]] | None = None

    def by_size(self, labels: Tensor | None = None) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Yield the tiles of each size: their slots, images and labels; whole tensors where there is one size.

        Args:
            labels: in place of the batch's own, of their shape.
        """
        labels = self.labels if labels is None else labels
        if self.sizes is None:
            yield list(range(len(self.ids))), self.images, labels
            return
        for height, width in dict.fromkeys(self.sizes):
            slots = [slot for slot, size in enumerate(self.sizes) if size == (height, width)]
            yield slots, self.images[slots, :, :height, :width], labels[slots, :height, :width]

    def to(self, device: torch.device) -> Batch:
        """Return a copy on a device, channels first in memory, independent of the loader's buffers."""
        if device.type != "cuda":
            images, labels = channels_first(self.images.to(device)), self.labels.to(device, copy=True)
            return Batch(images, labels, self.ids, self.sizes)
        # On a stream of its own the copy does not wait for the kernels of the step before.
        copies = _copy_stream(device)
        with torch.cuda.stream(copies):
            images = self.images.to(device, non_blocking=True)
            labels = self.labels.to(device, non_blocking=True)
        # The caller waits for the copy: the loader may then reuse the buffer, and kernels may read the tensors.
        copies.synchronize()
        # The allocator must not reuse their memory before the kernels of the current stream are done with it.
        for tensor in (images, labels):
            tensor.record_stream(torch.cuda.current_stream(device))
        return Batch(channels_first(images), labels, self.ids, self.sizes)


@lru_cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream for copies to a device."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def channels_first(images: Tensor) -> Tensor:
    """Return images with channels first in memory: the layout that results of training were measured with."""
    return images.contiguous(memory_format=torch.contiguous_format)


def to_batch(decoded: DecodedBatch, layout: BufferLayout) -> Batch:
    """Return a decoded batch as tensors: views of its buffer where all tiles have one size, else copies."""
    slots, area = len(decoded.pairs), layout.area
    flat = torch.from_numpy(decoded.buffer)
    if len(set(decoded.sizes)) == 1:
        height, width = decoded.sizes[0]
        images = flat.as_strided((slots, 3, height, width), (3 * area, 1, 3 * width, 3))
        labels = flat.as_strided((slots, height, width), (area, width, 1), 3 * area * layout.slots)
        return Batch(images, labels, list(decoded.pairs))
    tallest, widest = (max(side) for side in zip(*decoded.sizes, strict=True))
    images = torch.zeros(slots, 3, tallest, widest, dtype=torch.uint8)
    labels = torch.full((slots, tallest, widest), IGNORE, dtype=torch.uint8)
    for slot, (height, width) in enumerate(decoded.sizes):
        tile = flat.as_strided((3, height, width), (1, 3 * width, 3), 3 * area * slot)
        images[slot, :, :height, :width] = tile
        label = flat.as_strided((height, width), (width, 1), area * (3 * layout.slots + slot))
        labels[slot, :height, :width] = label
    return Batch(images, labels, list(decoded.pairs), list(decoded.sizes))
