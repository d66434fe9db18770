"""A batch of tiles as tensors, and its copy on the training device."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from mkd.loader.workers.pool import DecodedBatch, Pair
from mkd.loader.workers.shared_buffers import BufferLayout
from mkd.pixel_scale import PixelScale


@dataclass
class Batch:
    """Decoded tiles before augmentation; not to be written to.

    Attributes:
        images: (B,bands,H,W) as stored, views of channels-last memory.
        labels: uint8 (B,H,W), class ids; 255 = ignore. Unlabelled tiles are 0.
        ids: B pairs (epoch, sample), which seed each sample's own generator. A tile that could not be read is
            replaced by another of its shard and keeps its pair.
        valid: uint8 (B,H,W), 0 where a pixel is missing; None in a data set without missing pixels.
    """

    images: Tensor
    labels: Tensor
    ids: list[Pair]
    valid: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Return a copy on a device, channels first in memory, independent of the loader's buffers."""
        if device.type != "cuda":
            valid = None if self.valid is None else self.valid.to(device, copy=True)
            images = channels_first(self.images.to(device))
            return Batch(images, self.labels.to(device, copy=True), self.ids, valid)
        # On a stream of its own the copy does not wait for the kernels of the step before.
        copies = _copy_stream(device)
        with torch.cuda.stream(copies):
            images = self.images.to(device, non_blocking=True)
            labels = self.labels.to(device, non_blocking=True)
            valid = None if self.valid is None else self.valid.to(device, non_blocking=True)
        # The caller waits for the copy: the loader may then reuse the buffer, and kernels may read the tensors.
        copies.synchronize()
        # The allocator must not reuse their memory before the kernels of the current stream are done with it.
        for tensor in (images, labels, *(() if valid is None else (valid,))):
            tensor.record_stream(torch.cuda.current_stream(device))
        return Batch(channels_first(images), labels, self.ids, valid)

    def pixels(self, scale: PixelScale) -> Tensor:
        """Return the images as views are made of them, see `scaled`."""
        return scaled(self.images, self.valid, scale)


def scaled(images: Tensor, valid: Tensor | None, scale: PixelScale) -> Tensor:
    """Return images as views are made of them: 3 bands of uint8 without missing pixels as they are, else scaled.

    Args:
        images: (B,bands,H,W) as stored.
        valid: uint8 or bool (B,H,W), 0 where a pixel is missing; None: no data set of the kind has any.
        scale: of the network.

    Returns:
        uint8, or float32 x = (value - low) / (high - low), held in [-1,2], NaN where a pixel is missing. The network
        puts its mean in the place of NaN.
    """
    if scale.plain and valid is None:
        return images
    if scale.low is None or scale.high is None:
        x = images.float() / 255
    else:
        low, high = (torch.tensor(n, device=images.device)[:, None, None] for n in (scale.low, scale.high))
        x = ((images.float() - low) / (high - low)).clamp(-1, 2)  # single wild values are no news
    return x if valid is None else x.masked_fill((valid == 0)[:, None], torch.nan)


def to_unit(images: Tensor) -> Tensor:
    """Return what a network is given of views: uint8 in 0..255 becomes float32 in [0,1], float32 stays."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


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
    flat, bands = torch.from_numpy(decoded.buffer), layout.bands
    stored = torch.from_numpy(decoded.buffer[: layout.pixel_bytes * area * slots].view(layout.dtype))
    images = stored.as_strided((slots, bands, height, width), (bands * area, 1, bands * width, bands))
    start = layout.pixel_bytes * area * layout.slots
    labels = flat.as_strided((slots, height, width), (area, width, 1), start)
    valid = None
    if layout.masked:
        valid = flat.as_strided((slots, height, width), (area, width, 1), start + area * layout.slots)
    return Batch(images, labels, list(decoded.pairs), valid)
