"""A batch of tiles as tensors, and its copy on the training device."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

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
    """

    images: Tensor
    labels: Tensor
    ids: list[Pair]

    def to(self, device: torch.device) -> Batch:
        """Return a copy on a device, channels first in memory, independent of the loader's buffers."""
        if device.type != "cuda":
            return Batch(channels_first(self.images.to(device)), self.labels.to(device, copy=True), self.ids)
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
        return Batch(channels_first(images), labels, self.ids)


@lru_cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream for copies to a device."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def channels_first(images: Tensor) -> Tensor:
    """Return images with channels first in memory: the layout that results of training were measured with."""
    return images.contiguous(memory_format=torch.contiguous_format)


def odd_size_slot(decoded: DecodedBatch) -> int | None:
    """Return the slot of a tile whose size differs from the batch's most frequent one; None when all are equal.

    Such a batch is an error: padding would let a tile's view depend on the other tiles of its batch.
    """
    most_frequent = Counter(decoded.sizes).most_common(1)[0][0]
    return next((slot for slot, size in enumerate(decoded.sizes) if size != most_frequent), None)


def to_batch(decoded: DecodedBatch, layout: BufferLayout) -> Batch:
    """Return a decoded batch as tensors that are views of its buffer; all tiles have one size, see `odd_size_slot`."""
    assert odd_size_slot(decoded) is None, "the loader rejects such a batch"
    (height, width), slots, area = decoded.sizes[0], len(decoded.pairs), layout.area
    flat = torch.from_numpy(decoded.buffer)
    images = flat.as_strided((slots, 3, height, width), (3 * area, 1, 3 * width, 3))
    labels = flat.as_strided((slots, height, width), (area, width, 1), 3 * area * layout.slots)
    return Batch(images, labels, list(decoded.pairs))
