"""What the index of a labelled data set tells of its labels that its owner should know; no file is read."""

from __future__ import annotations

from collections.abc import Sequence

from mkd.dataset.index import DatasetIndex

NOTABLE = (
    0.3  # share of ignored pixels from which on it is said; sets that are labelled in part have a quarter
)
NOTABLE_BESIDE = 0.02  # the same where a class has no pixel: the ignored ones may be its
_MOST_NAMES = 10


def present_classes(index: DatasetIndex) -> list[str]:
    """Name the classes that have a pixel in the labels, in the order of their ids."""
    return [name for name, pixels in zip(index.classes, index.histogram, strict=True) if pixels]


def label_notes(index: DatasetIndex) -> list[str]:
    """Describe classes without a pixel and a notable share of ignored pixels, with their likely causes.

    Args:
        index: of any data set; one without labels has nothing to tell.

    Returns:
        One sentence each.
    """
    if not index.labelled:
        left_out = index.provenance.get("left_out")
        if isinstance(left_out, dict) and left_out.get("no_label"):
            return [
                "every pixel of every mask is ignored: 255 has a class only where ids give it one ({255: 1})"
            ]
        return []
    notes, present = [], present_classes(index)
    absent = [name for name in index.classes if name not in present]
    if absent:
        verb = "has" if len(absent) == 1 else "have"
        notes.append(
            f"{len(absent)} of {len(index.classes)} classes {verb} no pixel in the labels: "
            f"{_list_names(absent)}{_likely_cause(index)}"
        )
    total = sum(index.histogram) + index.ignored_pixels
    if index.ignored_pixels >= (NOTABLE_BESIDE if absent else NOTABLE) * total:
        notes.append(
            f"{index.ignored_pixels / total:.0%} of the pixels of labelled tiles are ignored ({index.ignored_pixels:,} "
            f"of {total:,})"
        )
    return notes


def _likely_cause(index: DatasetIndex) -> str:
    """Guess why classes have no pixel: what is most often wrong with masks."""
    first, *others = index.histogram
    if first and not any(others) and index.ignored_pixels:
        return (
            "; if the masks hold 0 and 255, then 255 means ignored unless the class file gives it a class: write "
            "ids: {0: 0, 255: 1} there"
        )
    if not first and any(others):
        return (
            "; if the masks count their ids from 1, write ids: {1: 0, 2: 1, ...} in the class file; if 0 is also the "
            "no-data value of the label rasters, unset that: gdal_edit.py -unsetnodata"
        )
    return ""


def _list_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
