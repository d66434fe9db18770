"""What the training process and its decoding processes tell each other."""

from __future__ import annotations

from typing import NamedTuple

from mkd.dataset.tile_decoder import BadTile, DatasetSpec
from mkd.loader.workers.shared_buffers import BufferLayout


class WorkerSetup(NamedTuple):
    """What a process needs to know once: the data set, and the layout and descriptor of the shared buffers."""

    spec: DatasetSpec
    layout: BufferLayout
    file: int


class PrefetchRequest(NamedTuple):
    """These samples will be asked for soon."""

    samples: list[int]


class DecodeRequest(NamedTuple):
    """Fill slots of a buffer with as many samples; orders come in lists, and each list is answered at once.

    `number` and `share` say which part of which batch this is.
    """

    batch: int
    part: int
    buffer: int
    slots: range
    samples: list[int]


class DecodeResult(NamedTuple):
    """An order is done: (height, width) of each of its tiles, and slot -> what was lost and replaced there."""

    batch: int
    part: int
    sizes: list[tuple[int, int]]
    bad: dict[int, BadTile]


class WorkerFailure(NamedTuple):
    """The process cannot go on: a sentence for people, or the traceback of a mistake of ours."""

    text: str
    is_bug: bool
