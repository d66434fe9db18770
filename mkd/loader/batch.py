"""A batch of tiles as tensors, and its way to the training device."""

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
    """Tiles as they lie in the shards; not to be written to.

    Attributes:
        images: uint8 (B,3,H,W), views of memory in which a pixel's bands lie together (channels last).
        labels: uint8 (B,H,W), class ids; 255 = ignore. Unlabelled tiles are 0.
        ids: B pairs (epoch, sample), which seed each sample's own generator. A tile that could not be read is
            replaced by another of its shard and keeps its pair.
    """

    images: Tensor
    labels: Tensor
    ids: list[Pair]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device, band after band in memory, and independent of the loader's buffers."""
        if device.type != "cuda":
            return Batch(channels_first(self.images.to(device)), self.labels.to(device, copy=True), self.ids)
        side = _side_stream(device)
        with torch.cuda.stream(side):
            images = self.images.to(device, non_blocking=True)
            labels = self.labels.to(device, non_blocking=True)
        side.synchronize()
        for tensor in (images, labels):
            tensor.record_stream(torch.cuda.current_stream(device))
        return Batch(channels_first(images), labels, self.ids)


@lru_cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return a stream for copies: waiting for it does not wait for the kernels of the step before."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def channels_first(images: Tensor) -> Tensor:
    """Return images with band after band in memory: the layout that results of training were measured with."""
    return images.contiguous(memory_format=torch.contiguous_format)


def odd_size_slot(filled: DecodedBatch) -> int | None:
    """Return the slot of a tile that is not of its batch's size, the one that most tiles have; None: all are of one.

    No batch holds both: padding would let a tile's view depend on its batch mates.
    """
    usual = Counter(filled.sizes).most_common(1)[0][0]
    return next((slot for slot, size in enumerate(filled.sizes) if size != usual), None)


def to_batch(filled: DecodedBatch, layout: BufferLayout) -> Batch:
    """Return a filled buffer as tensors, without a copy.

    All tiles have one size, see `odd_one`.
    """
    assert odd_size_slot(filled) is None, "the loader refuses such a batch"
    (height, width), slots, area = filled.sizes[0], len(filled.pairs), layout.area
    whole = torch.from_numpy(filled.buffer)
    images = whole.as_strided((slots, 3, height, width), (3 * area, 1, 3 * width, 3))
    labels = whole.as_strided((slots, height, width), (area, width, 1), 3 * area * layout.slots)
    return Batch(images, labels, list(filled.pairs))
