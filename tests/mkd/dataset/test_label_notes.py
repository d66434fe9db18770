"""What an index tells of its labels: classes without a pixel, ignored shares, likely causes."""

import pytest

from mkd.dataset.index import DatasetIndex
from mkd.dataset.label_notes import label_notes, present_classes


def index(histogram, ignored=0, labelled=3, left_out=None):
    """Make an index of so many pixels a class."""
    names = tuple(f"c{number}" for number in range(len(histogram)))
    return DatasetIndex(
        name="x", classes=names, palette=tuple((n, n, n) for n in range(len(names))), samples=3, labelled=labelled,
        bytes=0, histogram=tuple(histogram), ignored_pixels=ignored, shards=[],
        provenance={"left_out": left_out or {}}, largest=(1, 1),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("histogram", "ignored", "words"),
    [
        ([50, 50], 5, []),
        (
            [50, 0],
            30,
            [
                "1 of 2 classes has no pixel in the labels: c1; if the masks hold 0 and 255",
                "38% of the pixels",
            ],
        ),
        (
            [0, 50, 50],
            0,
            ["1 of 3 classes has no pixel in the labels: c0; if the masks count their ids from 1"],
        ),
        ([50, 0, 0, 7], 0, ["2 of 4 classes have no pixel in the labels: c1, c2"]),
        ([99, 0], 1, ["1 of 2 classes has no pixel in the labels: c1"]),
        ([50, 0], 0, ["1 of 2 classes has no pixel in the labels: c1"]),
        ([90, 1], 10, []),
        ([60, 11], 29, []),
        ([60, 9], 31, ["31% of the pixels of labelled tiles are ignored (31 of 100)"]),
    ],
)
def test_notes(histogram, ignored, words):
    """Each class without a pixel and a notable ignored share is told, with its likely cause."""
    notes = label_notes(index(histogram, ignored))
    assert len(notes) == len(words)
    assert all(note.startswith(word) for note, word in zip(notes, words, strict=True))


def test_many_names_are_cut():
    """At most ten names are listed, then a count."""
    (note,) = label_notes(index([5, 5] + [0] * 30))
    assert "c2, c3, c4, c5, c6, c7, c8, c9, c10, c11 and 20 more" in note


def test_sets_without_labels():
    """Nothing is told of unlabelled tiles; masks that are all ignored are."""
    assert label_notes(index([0, 0], labelled=0)) == []
    (note,) = label_notes(index([0, 0], labelled=0, left_out={"no_label": 3}))
    assert "every pixel of every mask is ignored" in note
    assert present_classes(index([0, 4, 1])) == ["c1", "c2"]
