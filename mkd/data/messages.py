"""What the training process and its decoding processes tell each other."""

from __future__ import annotations

from typing import NamedTuple

from mkd.data.reader import DataSet, Lost
from mkd.data.ring import Layout


class Setup(NamedTuple):
    """What a process needs to know once: the data set, and the layout and descriptor of the shared buffers."""

    data: DataSet
    layout: Layout
    file: int


class Ahead(NamedTuple):
    """These samples will be asked for soon."""

    samples: list[int]


class Order(NamedTuple):
    """Fill slots of a buffer: pairs of slot and sample."""

    number: int
    buffer: int
    work: list[tuple[int, int]]


class Done(NamedTuple):
    """An order is done: slot -> (height, width) of its tile, and slot -> what was lost and replaced there."""

    number: int
    sizes: dict[int, tuple[int, int]]
    lost: dict[int, Lost]


class Failed(NamedTuple):
    """The process cannot go on: a sentence for people, or the traceback of a mistake of ours."""

    text: str
    ours: bool
