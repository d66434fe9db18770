"""Batch buffers in shared memory: one anonymous file, a part of it for each buffer; no torch."""

from __future__ import annotations

import mmap
import os
import weakref
from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SPARE_BUFFERS = 2  # free buffers that keep their memory


class BufferLayout(NamedTuple):
    """The layout of a buffer: ``slots`` images, then as many labels, then maybe as many masks of missing pixels.

    Attributes:
        slots: tiles.
        height: of the largest tile, pixels.
        width: of the largest tile, pixels.
        bands: of an image.
        dtype: of an image, numpy's name.
        masked: whether there are masks: uint8, 0 where a pixel is missing.
    """

    slots: int
    height: int
    width: int
    bands: int = 3
    dtype: str = "uint8"
    masked: bool = False

    @property
    def pixel_bytes(self) -> int:
        """Bytes of an image's pixel."""
        return self.bands * np.dtype(self.dtype).itemsize

    @property
    def area(self) -> int:
        """Pixels of the largest tile."""
        return self.height * self.width

    @property
    def bytes(self) -> int:
        """Size of a buffer in the file: a whole number of memory pages."""
        planes = self.pixel_bytes + 1 + self.masked
        return -(-planes * self.slots * self.area // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY

    def slot(self, buffer: NDArray[np.uint8], slot: int) -> tuple[NDArray[np.uint8], ...]:
        """Return the flat arrays of a slot's image, label and, where there are masks, mask in a buffer, all views."""
        area, size = self.area, self.pixel_bytes * self.area
        label = size * self.slots + area * slot
        image_and_label = buffer[size * slot : size * (slot + 1)], buffer[label : label + area]
        if not self.masked:
            return image_and_label
        mask = label + area * self.slots
        return *image_and_label, buffer[mask : mask + area]


class MappedBuffers:
    """The buffers of a shared file, mapped into this process when first used.

    Args:
        file: descriptor of the shared file.
        layout: of each buffer.
    """

    def __init__(self, file: int, layout: BufferLayout) -> None:
        self.file, self.layout = file, layout
        self._maps: dict[int, mmap.mmap] = {}

    def map(self, number: int) -> mmap.mmap:
        """Return the mapped memory of a buffer."""
        if number not in self._maps:
            self._maps[number] = mmap.mmap(
                self.file, self.layout.bytes, offset=number * self.layout.bytes, flags=mmap.MAP_SHARED
            )
        return self._maps[number]

    def array(self, number: int) -> NDArray[np.uint8]:
        """Return a buffer as flat uint8; the memory lives as long as the array."""
        return np.frombuffer(self.map(number), np.uint8)


class SharedBufferPool:
    """Buffers of the training process: acquired, filled by decoding processes, lent as arrays, and freed with those.

    `acquire` never waits: when all buffers are in use the file grows. Memory beyond the buffers in use and
    `SPARE_BUFFERS` goes back to the system.

    Hand-over: between `acquire` and `lend` only decoding processes write to a buffer; they map the same file by its
    number. Nobody writes to a lent buffer; it is free again when its array and all views of it are garbage.

    Args:
        layout: of each buffer.

    Raises:
        ValueError: a system without anonymous shared files.
    """

    def __init__(self, layout: BufferLayout) -> None:
        if not hasattr(os, "memfd_create"):
            raise ValueError("decoding processes need Linux; use data.workers=0 here")
        self.layout = layout
        self.file = os.memfd_create("mkd-buffers")
        self._buffers = MappedBuffers(self.file, layout)
        self._count = 0  # buffers that the file holds
        # Finalizers append to it, at any moment and in any thread: deque.append and popleft are atomic.
        self._returned: deque[int] = deque()
        self._free: list[int] = []
        self._released: list[int] = []  # free, their memory given back to the system

    def acquire(self) -> int:
        """Return the number of a free buffer."""
        while self._returned:
            self._free.append(self._returned.popleft())
        while len(self._free) > SPARE_BUFFERS:
            number = self._free.pop(0)
            self._buffers.map(number).madvise(mmap.MADV_REMOVE)
            self._released.append(number)
        if self._free:
            return self._free.pop()
        if self._released:
            return self._released.pop()
        self._count += 1
        os.ftruncate(self.file, self._count * self.layout.bytes)
        return self._count - 1

    def lend(self, number: int) -> NDArray[np.uint8]:
        """Return a filled buffer as an array; it is free again when the array and all views of it are gone."""
        array = self._buffers.array(number)
        weakref.finalize(array, self._returned.append, number).atexit = False
        return array

    def close(self) -> None:
        """Close the file; memory that is lent lives on until its arrays are gone."""
        os.close(self.file)
