"""split --unlabelled: a share of the unlabelled tiles, with or without few shots beside it."""

from mkd.dataset.index import read_index
from shards.commands.split import split
from shards.reading.shard_reader import read_tiles
from shards.splitting.assignment import SplitOptions
from tests.helpers.shards import write_dataset
from tests.helpers.training.runs import coloured

PAIRS = coloured(20, size=(8, 8))


def tiles_of(folder):
    return {tile.key: tile.label for tile in read_tiles(folder)}


def test_a_share_of_the_unlabelled_tiles(tmp_path):
    """--unlabelled N keeps N of the tiles that --labelled leaves, without labels; smaller shares lie in larger ones."""
    source = write_dataset(tmp_path / "all", PAIRS)
    whole = split(source, tmp_path / "whole", SplitOptions(labelled=6))
    before = {part: set(tiles_of(whole[part])) for part in ("labelled", "unlabelled")}
    earlier = set()
    for number in (1, 9, 14):
        report = split(source, tmp_path / str(number), SplitOptions(labelled=6, unlabelled=number))
        assert set(tiles_of(report["labelled"])) == before["labelled"]
        found = tiles_of(report["unlabelled"])
        assert len(found) == number
        assert earlier <= set(found) <= before["unlabelled"]
        assert all(label is None for label in found.values())
        earlier = set(found)


def test_a_share_of_a_set_without_labels(tmp_path):
    """Without --labelled the share is of all tiles, which need no labels; no other part is written."""
    source = write_dataset(tmp_path / "all", PAIRS, labelled=False)
    report = split(source, tmp_path / "out", SplitOptions(unlabelled=7))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["unlabelled"]
    assert set(tiles_of(report["unlabelled"])) < set(tiles_of(source))
    assert read_index(report["unlabelled"]).samples == 7
    assert split(source, tmp_path / "out", SplitOptions(unlabelled=7))["done_before"]
