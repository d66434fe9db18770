"""Per-band numbers of a data set that networks normalise by: a robust range, and mean and spread within it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from mkd.documents import mapping, sequence, shown

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class BandStatistics:
    """Numbers of each band of a data set, over its pixels with data.

    A network is given x = (value - low) / (high - low).

    Attributes:
        low: value that becomes 0: the 2nd percentile, and 0 in 8 bits.
        high: value that becomes 1, > low: the 98th percentile, and 255 in 8 bits.
        mean: of x; values outside `low` and `high` count as these.
        std: of the same, > 0.
    """

    low: Numbers
    high: Numbers
    mean: Numbers
    std: Numbers

    @classmethod
    def from_json(cls, content: Any, bands: int) -> BandStatistics | None:
        """Read what an index holds; None stays None.

        Raises:
            KeyError: a list is missing.
            ValueError: lists that are no numbers of so many bands, or a range or spread of 0.
        """
        if content is None:
            return None
        lists = mapping(content, "statistics")
        found = cls(*(_numbers(lists[field.name], field.name, bands) for field in fields(cls)))
        if min(found.std) <= 0 or any(high <= low for low, high in zip(found.low, found.high, strict=True)):
            raise ValueError("statistics with a spread or range of 0")
        return found


def _numbers(value: Any, name: str, bands: int) -> Numbers:
    what = f"statistics.{name}"
    numbers = sequence(value, what, bands)
    if not all(type(number) in (int, float) for number in numbers):
        raise ValueError(f"{what} is {shown(value)}, a list of numbers is needed")
    return tuple(float(number) for number in numbers)
