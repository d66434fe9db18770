"""Messages between the training process and its decoding processes."""

from __future__ import annotations

from typing import NamedTuple

from mkd.dataset.tile_decoder import BadTile, DatasetSpec
from mkd.loader.workers.shared_buffers import BufferLayout


class WorkerSetup(NamedTuple):
    """First message to a process: the data set, and layout and descriptor of the shared buffers."""

    spec: DatasetSpec
    layout: BufferLayout
    file: int


class PrefetchRequest(NamedTuple):
    """Samples that this process is going to be asked for: it begins to read them from remote storage."""

    samples: list[int]


class DecodeRequest(NamedTuple):
    """Decode samples into slots of a buffer; requests come in lists, and each list is answered by one message.

    Attributes:
        batch: number of the batch.
        part: which part of the batch this is; a batch has one part a process.
        buffer: number of the shared buffer.
        slots: of the buffer, one a sample.
        samples: to decode.
    """

    batch: int
    part: int
    buffer: int
    slots: range
    samples: list[int]


class DecodeResult(NamedTuple):
    """A decode request is done: (height, width) of each of its tiles, and slot -> the bad tile replaced there."""

    batch: int
    part: int
    sizes: list[tuple[int, int]]
    bad: dict[int, BadTile]


class WorkerFailure(NamedTuple):
    """Last message of a process that cannot go on: a sentence for people, or the traceback of a bug."""

    text: str
    is_bug: bool
