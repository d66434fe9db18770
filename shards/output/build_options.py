"""Options that every build of a data set shares, and which shards one job of an array makes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mkd.image_header import MAX_PIXELS


@dataclass(frozen=True)
class BuildOptions:
    """Where a data set goes, how it is cut into shards, and how many bad tiles it may leave out.

    Attributes:
        out: path or URL of the new data set.
        name: name of the data set; None = the class file's.
        shard_size: tiles a shard, >= 1; `tile` counts windows, so those without data leave a shard smaller.
        workers: processes, >= 1.
        part: "I/N" builds part I of N only, `make_index` merges all parts; None = everything.
        replace: drop an unfinished build of other options or inputs that lies in `out`.
        max_bad_labelled: share of labelled tiles that may be bad and left out, 0..1.
        max_bad: the same of unlabelled tiles.
        max_pixels: greatest number of pixels of an image that is decoded whole, and of a block of a raster.
    """

    out: str | os.PathLike[str]
    name: str | None = None
    shard_size: int = 256
    workers: int = 1
    part: str | None = None
    replace: bool = False
    max_bad_labelled: float = 0.0
    max_bad: float = 0.001
    max_pixels: int = MAX_PIXELS

    @property
    def limit_given(self) -> tuple[int, ...]:
        """What of `max_pixels` a shard depends on: with another limit it may have other bad tiles."""
        return () if self.max_pixels == MAX_PIXELS else (self.max_pixels,)


def parse_part(part: str | None) -> tuple[int, int] | None:
    """Read "I/N": part I, counted from 1, of N.

    Raises:
        ValueError: not of this form, or outside 1..N.
    """
    if part is None:
        return None
    number, _, count = part.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(f"--part {part}: give I/N with I from 1 to N, such as 3/16")
    return int(number), int(count)


def select_part(items: Sequence[Any], part: tuple[int, int] | None) -> Sequence[Any]:
    """Return the items of a part: each N-th, so that all parts take about as long."""
    return items if part is None else items[part[0] - 1 :: part[1]]
