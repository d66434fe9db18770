"""A table of what data sets hold, from their indexes alone."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from mkd.dataset.index import DatasetIndex, read_index


def info(folders: Sequence[str | os.PathLike[str]]) -> Table:
    """Describe data sets side by side: tiles, labels, bytes, what was left out, pixels and share of each class.

    Args:
        folders: data sets, paths or URLs.

    Returns:
        A table with a column for each data set; shares are of the labelled pixels that are not ignored.

    Raises:
        ValueError: a folder that is no data set.
    """
    indexes = [read_index(folder) for folder in folders]
    table = Table()
    table.add_column("")
    for folder, index in zip(folders, indexes, strict=True):
        table.add_column(
            Text(f"{folder}\n{index.name}"), justify="right", overflow="fold"
        )  # names are no markup
    table.add_row("tiles", *(f"{index.samples:,}" for index in indexes))
    table.add_row("labelled", *(f"{index.labelled:,}" for index in indexes))
    table.add_row("largest tile", *(f"{index.largest[0]:,} x {index.largest[1]:,}" for index in indexes))
    table.add_row("bands", *(f"{index.bands} of {index.dtype}" for index in indexes))
    table.add_row("shards", *(f"{len(index.shards):,}" for index in indexes))
    table.add_row("bytes", *(f"{index.bytes:,}" for index in indexes))
    table.add_row("quarantined", *(_count_quarantined(index) for index in indexes), end_section=True)
    reasons = list(dict.fromkeys(reason for index in indexes for reason in _left_out_counts(index)))
    for reason in reasons:
        counts = (f"{_left_out_counts(index).get(reason, 0):,}" for index in indexes)
        table.add_row(Text(reason.replace("_", " ")), *counts, end_section=reason == reasons[-1])
    names = list(dict.fromkeys(name for index in indexes for name in index.classes))
    for name in names:
        table.add_row(
            Text(name), *(_pixels_and_share(index, name) for index in indexes), end_section=name == names[-1]
        )
    table.add_row("ignored pixels", *(f"{index.ignored_pixels:,}" for index in indexes))
    return table


def _count_quarantined(index: DatasetIndex) -> str:
    bad = index.provenance.get("quarantined") or {}
    return f"{sum(bad.values()):,}"


def _left_out_counts(index: DatasetIndex) -> dict[str, int]:
    return dict(index.provenance.get("left_out") or {})


def _pixels_and_share(index: DatasetIndex, name: str) -> str:
    if name not in index.classes:
        return "no such class"
    if not index.labelled:
        return "no labels"
    pixels = index.histogram[index.classes.index(name)]
    return f"{pixels:,}  {pixels / sum(index.histogram):7.2%}"
