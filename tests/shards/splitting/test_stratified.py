"""Stratified few shots: every class is present, one seed gives one result."""

import numpy as np
import pytest

from mkd.dataset.index import read_index
from mkd.storage.folder import Folder
from shards.commands.split import split
from shards.splitting.assignment import SplitOptions
from shards.splitting.blocks import draw_few_shots
from shards.splitting.stratified import draw_stratified, read_classes
from tests.helpers.shards import write_dataset

# Class 0 everywhere, 1 and 2 in two tiles each of two hundred, 3 in every tenth.
RARE = {17: {1}, 90: {1, 3}, 5: {2}, 160: {2, 3}}
HELD = {f"t{n:03d}": frozenset({0} | RARE.get(n, {3} if n % 10 == 0 else set())) for n in range(200)}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("number", [3, 4, 20])
def test_each_class_is_drawn(seed, number):
    """Rare classes come first: three tiles hold all four classes, where a plain draw misses some."""
    chosen = draw_stratified(HELD, HELD, number, seed)
    assert len(chosen) == number
    assert frozenset().union(*(HELD[key] for key in chosen)) == {0, 1, 2, 3}
    assert chosen == draw_stratified(reversed(list(HELD)), HELD, number, seed)


def test_seeds_differ_and_smaller_draws_are_part_of_larger_ones():
    """The draw is a sequence: its beginning does not depend on its length."""
    draws = [draw_stratified(HELD, HELD, number, 3) for number in (2, 9, 40)]
    assert draws[0] < draws[1] < draws[2]
    assert draws[2] != draw_stratified(HELD, HELD, 40, 4)
    assert draw_stratified(HELD, HELD, 200, 0) == set(HELD)
    with pytest.raises(ValueError, match=r"--labelled 201: the training tiles with labels are 200"):
        draw_stratified(HELD, HELD, 201, 0)


def test_split_stratifies_a_data_set(tmp_path):
    """The labelled subset has every class; a number of tiles is needed."""
    image, labels = np.zeros((8, 8, 3), np.uint8), [np.zeros((8, 8), np.uint8) for _ in range(40)]
    labels[11][:2], labels[29][:3] = 1, 2
    labels[30][0] = 255
    data = write_dataset(tmp_path / "set", [(image, label) for label in labels])
    held = read_classes(Folder(data), read_index(data))
    assert (held["tile0011"], held["tile0029"], held["tile0030"]) == ({0, 1}, {0, 2}, {0})
    report = split(data, tmp_path / "out", SplitOptions(labelled=4, stratify=True))
    assert report["absent"] == []
    assert all(read_index(tmp_path / "out/labelled").histogram)
    plain = draw_few_shots([f"tile{n:04d}" for n in range(40)], 4, 0)
    assert not plain & {"tile0011", "tile0029"}  # which would not have told the two draws apart
    with pytest.raises(ValueError, match="--stratify draws few shots: give their number"):
        split(data, tmp_path / "other", SplitOptions(by="source", stratify=True))
