"""Totals of a data set: the records of its shards summed up to its index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mkd.dataset.index import DatasetIndex, ShardInfo
from mkd.dataset.shard_list import ShardList
from mkd.dataset.shard_record import ShardRecord
from mkd.labels import IGNORE, Colour
from shards.output.shard_writer import MAX_EXAMPLES


class DatasetTotals:
    """What the shards of a data set sum up to."""

    def __init__(self) -> None:
        self.shards: list[ShardInfo] = []
        self.left_out: Counter[str] = Counter()
        self.named: dict[str, list[str]] = {}
        self.bad = {"labelled": 0, "unlabelled": 0}
        self._counts = [0] * IGNORE
        self._ignored = self._missing = 0
        self._largest = (0, 0)
        self._kind: tuple[int, str] | None = None

    def add(self, record: ShardRecord) -> None:
        """Add one shard, in order of their numbers.

        Raises:
            ValueError: images of other bands or another type than those of the shards before.
        """
        self.left_out.update(record.left_out)
        for reason, names in record.named.items():
            known = self.named.setdefault(reason, [])
            known += [name for name in names if name not in known][: MAX_EXAMPLES - len(known)]
        for bad in record.quarantine:
            self.bad["labelled" if bad["labelled"] else "unlabelled"] += 1
        if not record.tiles:
            return
        kind = (record.bands, record.dtype)
        if self._kind is not None and self._kind != kind:
            raise ValueError(
                f"{record.info.file} has images of {kind[0]} bands of {kind[1]}, {self.shards[0].file} of "
                f"{self._kind[0]} of {self._kind[1]}: build one data set of each"
            )
        self._kind = kind
        self.shards.append(record.info)
        for value, pixels in enumerate(record.histogram):
            self._counts[value] += pixels
        self._ignored += record.ignored_pixels
        self._missing += record.missing_pixels
        height, width = (max(tile.size[axis] for tile in record.tiles) for axis in (0, 1))
        self._largest = (max(self._largest[0], height), max(self._largest[1], width))

    def classes_found(self) -> set[int]:
        """Return the class ids that have a pixel."""
        return {value for value, pixels in enumerate(self._counts) if pixels}

    def index(
        self, name: str, classes: Sequence[str], palette: Sequence[Colour], provenance: Mapping[str, Any]
    ) -> DatasetIndex:
        """Return the index."""
        bands, dtype = self._kind or (3, "uint8")
        return DatasetIndex(
            name=name,
            classes=tuple(classes),
            palette=tuple(palette),
            samples=sum(shard.samples for shard in self.shards),
            labelled=sum(shard.labelled for shard in self.shards),
            bytes=sum(shard.bytes for shard in self.shards),
            histogram=tuple(self._counts[: len(classes)]),
            ignored_pixels=self._ignored,
            shards=ShardList(self.shards),
            provenance=dict(provenance),
            largest=self._largest,
            bands=bands,
            dtype=dtype,
            missing_pixels=self._missing,
        )
