"""Shared classes by their words."""

from mkd.transferability.class_overlap import real_classes, shared_classes


def test_words_decide():
    """A common word is enough, plural or not; background and its like never count."""
    target = ["background", "Road", "farmland", "building", "Trees"]
    known = ["background", "road", "residential building", "dry cropland", "tree/shrub"]
    assert shared_classes(target, known) == ["Road", "building", "Trees"]
    assert shared_classes(target, ["background", "other"]) == []
    assert shared_classes(target, target) == target[1:]
    assert real_classes(target) == target[1:]


def test_short_and_odd_names():
    """A short word keeps its s; digits and signs part words."""
    assert shared_classes(["gas", "tree_2"], ["ga", "trees"]) == ["tree_2"]
