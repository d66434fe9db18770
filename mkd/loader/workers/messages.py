"""What the training process and its decoding processes tell each other."""

from __future__ import annotations

from typing import NamedTuple

from mkd.dataset.tile_reader import BadTile, DataSet
from mkd.loader.workers.shared_buffers import BufferLayout


class Setup(NamedTuple):
    """What a process needs to know once: the data set, and the layout and descriptor of the shared buffers."""

    data: DataSet
    layout: BufferLayout
    file: int


class Prefetch(NamedTuple):
    """These samples will be asked for soon."""

    samples: list[int]


class Order(NamedTuple):
    """Fill slots of a buffer with as many samples; orders come in lists, and each list is answered at once.

    `number` and `share` say which part of which batch this is.
    """

    number: int
    share: int
    buffer: int
    slots: range
    samples: list[int]


class Done(NamedTuple):
    """An order is done: (height, width) of each of its tiles, and slot -> what was lost and replaced there."""

    number: int
    share: int
    sizes: list[tuple[int, int]]
    lost: dict[int, BadTile]


class Failed(NamedTuple):
    """The process cannot go on: a sentence for people, or the traceback of a mistake of ours."""

    text: str
    ours: bool
