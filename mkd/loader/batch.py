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
from mkd.pixel_scale import PixelScale


@dataclass
class Batch:
    """Decoded tiles before augmentation; not to be written to.

    Attributes:
        images: (B,bands,H,W) as stored, views of channels-last memory.
        labels: uint8 (B,H,W), class ids; 255 = ignore. Unlabelled tiles are 0.
        ids: B pairs (epoch, sample), which seed each sample's own generator. A tile that could not be read is
            replaced by another of its shard and keeps its pair.
        sizes: (height, width) of each tile where they differ: tiles lie at the top left, the rest is to be left out;
            None where all tiles have one size.
        valid: uint8 (B,H,W), 0 where a pixel is missing; None in a data set without missing pixels.
    """

    images: Tensor
    labels: Tensor
    ids: list[Pair]
    sizes: list[tuple[int, int]] | None = None
    valid: Tensor | None = None

    def by_size(
        self, scale: PixelScale, labels: Tensor | None = None
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Yield the tiles of each size: slots, images as of `pixels`, labels; whole tensors where there is one size.

        Args:
            scale: of the network.
            labels: in place of the batch's own, of their shape.
        """
        images, labels = self.pixels(scale), self.labels if labels is None else labels
        if self.sizes is None:
            yield list(range(len(self.ids))), images, labels
            return
        for height, width in dict.fromkeys(self.sizes):
            slots = [slot for slot, size in enumerate(self.sizes) if size == (height, width)]
            yield slots, images[slots, :, :height, :width], labels[slots, :height, :width]

    def to(self, device: torch.device) -> Batch:
        """Return a copy on a device, channels first in memory, independent of the loader's buffers."""
        if device.type != "cuda":
            valid = None if self.valid is None else self.valid.to(device, copy=True)
            images, labels = channels_first(self.images.to(device)), self.labels.to(device, copy=True)
            return Batch(images, labels, self.ids, self.sizes, valid)
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
        return Batch(channels_first(images), labels, self.ids, self.sizes, valid)

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
        low, high = (upload(torch.tensor(n), images.device)[:, None, None] for n in (scale.low, scale.high))
        x = ((images.float() - low) / (high - low)).clamp(-1, 2)  # single wild values are no news
    return x if valid is None else x.masked_fill((valid == 0)[:, None], torch.nan)


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Return a small tensor of the host on a device; the host does not wait for kernels that run there."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)  # unpinned memory is copied while the host waits


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


def to_batch(decoded: DecodedBatch, layout: BufferLayout) -> Batch:
    """Return a decoded batch as tensors: views of its buffer where all tiles have one size, else copies."""
    slots, area, bands, pixel_bytes = len(decoded.pairs), layout.area, layout.bands, layout.pixel_bytes
    flat = torch.from_numpy(decoded.buffer)
    stored = torch.from_numpy(decoded.buffer[: pixel_bytes * area * layout.slots].view(layout.dtype))
    of_labels = pixel_bytes * area * layout.slots  # where they begin, bytes; masks follow
    of_masks = of_labels + area * layout.slots
    if len(set(decoded.sizes)) == 1:
        height, width = decoded.sizes[0]
        images = stored.as_strided((slots, bands, height, width), (bands * area, 1, bands * width, bands))
        labels = flat.as_strided((slots, height, width), (area, width, 1), of_labels)
        valid = None
        if layout.masked:
            valid = flat.as_strided((slots, height, width), (area, width, 1), of_masks)
        return Batch(images, labels, list(decoded.pairs), valid=valid)
    tallest, widest = (max(side) for side in zip(*decoded.sizes, strict=True))
    images = torch.zeros(slots, bands, tallest, widest, dtype=stored.dtype)
    labels = torch.full((slots, tallest, widest), IGNORE, dtype=torch.uint8)
    valid = torch.zeros(slots, tallest, widest, dtype=torch.uint8) if layout.masked else None
    for slot, (height, width) in enumerate(decoded.sizes):
        tile = stored.as_strided((bands, height, width), (1, bands * width, bands), bands * area * slot)
        images[slot, :, :height, :width] = tile
        plane = (height, width), (width, 1)
        labels[slot, :height, :width] = flat.as_strided(*plane, of_labels + area * slot)
        if valid is not None:
            valid[slot, :height, :width] = flat.as_strided(*plane, of_masks + area * slot)
    return Batch(images, labels, list(decoded.pairs), list(decoded.sizes), valid)
