"""Panels show what they were given, count what is right, and refuse what does not fit."""

import numpy as np
import pytest

from mkd.report.content import MapView, Panel
from mkd.report.drawing.image_panels import map_panel, panel_views

CLASSES = ("road", "water", "field")
PALETTE = ((240, 200, 60), (50, 110, 200), (190, 140, 70))


def panel(truth, **predictions):
    image = np.zeros((2, 3, 3), np.uint8)
    return Panel("tile", image, truth, predictions)


TRUTH = np.array([[0, 1, 255], [2, 2, 255]], np.uint8)


def test_pictures_stand_in_order_with_their_accuracy():
    """Image, truth, then predictions; unlabelled pixels count neither right nor wrong."""
    guess = np.array([[0, 1, 2], [2, 0, 2]], np.uint8)
    (view,) = panel_views([panel(TRUTH, base=guess, ours=TRUTH % 3)], CLASSES, PALETTE)
    assert [(p.label, p.note) for p in view.pictures] == [
        ("image", ""),
        ("truth", ""),
        ("base", "75.0 % right"),
        ("ours", "100.0 % right"),
    ]


def test_unlabelled_tiles_have_no_truth_and_no_accuracy():
    """Without truth, or with nothing labelled, no share is claimed."""
    guess = np.zeros((2, 3), np.uint8)
    (without,) = panel_views([panel(None, ours=guess)], CLASSES, PALETTE)
    assert [(p.label, p.note) for p in without.pictures] == [("image", ""), ("ours", "")]
    (ignored,) = panel_views([panel(np.full((2, 3), 255, np.uint8), ours=guess)], CLASSES, PALETTE)
    assert ignored.pictures[-1].note == ""


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        (np.zeros((3, 3), np.uint8), r"panel 'tile': ours has \(3, 3\) pixels, its image \(2, 3\)"),
        (np.full((2, 3), 3, np.uint8), "panel 'tile': ours holds id 3, there are 3 classes"),
    ],
)
def test_maps_that_do_not_fit_are_named(ids, sentence):
    """Another size, or an id that is no class, says which panel and which picture."""
    with pytest.raises(ValueError, match=sentence):
        panel_views([panel(TRUTH, ours=ids)], CLASSES, PALETTE)


def test_shares_are_of_the_mapped_area():
    """Pixels without data count in no share; a class that is not mapped is not listed; doubt is below 0.6."""
    classes = np.array([[0, 0, 0, 2], [255, 255, 255, 255]], np.uint8)
    confidence = np.array([[254, 200, 152, 154], [255, 255, 255, 255]], np.uint8)
    found = map_panel(MapView(None, classes, confidence, "here"), CLASSES, PALETTE)
    assert found.shares == [("road", "#f0c83c", 75.0), ("field", "#be8c46", 25.0)]
    assert found.doubtful == 25.0  # 152 / 255 = 0.596
    assert [p.label for p in found.pictures] == ["land cover", "confidence"]
    assert (found.scale[0], found.scale[-1], found.caption) == ("#000004", "#fcfdbf", "here")


def test_a_map_without_data_claims_nothing():
    """Where nothing is mapped there are no shares and no doubt, and no division by zero."""
    empty = np.full((2, 2), 255, np.uint8)
    found = map_panel(MapView(np.zeros((2, 2, 3), np.uint8), empty, empty), CLASSES, PALETTE)
    assert (found.shares, found.doubtful) == ([], None)
    assert [p.label for p in found.pictures] == ["orthomosaic", "land cover", "confidence"]
