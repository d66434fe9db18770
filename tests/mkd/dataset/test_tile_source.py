"""Members of tiles: the bytes that were packed, wherever the shards are, or one sentence about what is wrong."""

import pickle
import random

import pytest

from mkd.dataset import local_shards
from mkd.dataset.index import read_index
from mkd.dataset.shard_record import read_record, write_record
from mkd.dataset.tile_source import DamagedTile, TileRequest, TileSource
from mkd.storage.folder import Folder
from tests.helpers.plain import write_plain
from tests.mkd.dataset.byte_tiles import COUNTS, TILES, make_tiles, open_source


@pytest.fixture(params=["local", "memory", "s3", "cached"])
def place(request, tmp_path):
    """Give folder and further arguments of a source for each way of reading."""
    if request.param == "s3":
        url = request.getfixturevalue("s3")
    else:
        url = f"{tmp_path}/set" if request.param == "local" else f"memory://{tmp_path}"
    write_plain(url, TILES, (8, 8), COUNTS)
    return Folder(url, patience=5), *((tmp_path / "cache", 10**8) if request.param == "cached" else ())


@pytest.fixture
def local(tmp_path):
    """Give a folder on a disk with the data set in it."""
    write_plain(tmp_path, TILES, (8, 8), COUNTS)
    return Folder(tmp_path)


@pytest.mark.parametrize("prefetched", [0, 7])
def test_members_are_what_was_packed(place, prefetched):
    """All members, and any choice of them, in any order, with and without reading ahead."""
    source = open_source(*place)
    order = random.Random(1).sample(range(100), 100)
    for step, sample in enumerate(order):
        if prefetched and step % prefetched == 0:
            source.prefetch(order[step : step + prefetched])
        assert source.record(sample).key == f"tile{sample:04d}"
        assert source.record(sample).size == (8, 8)
        assert set(source.record(sample).members) == set(TILES[sample])
        kinds = list(TILES[sample]) if sample % 2 else ["jpg"]
        assert source.read(sample, kinds) == {kind: TILES[sample][kind] for kind in kinds}
    source.close()


def test_a_source_travels_as_its_arguments(place):
    """What another process unpickles reads the same tiles, with files and threads of its own."""
    source = open_source(*place)
    source.prefetch([1, 2])
    source.read(1, ["jpg"])
    copy = pickle.loads(pickle.dumps(source))
    assert copy.read(50, ["jpg"]) == source.read(50, ["jpg"]) == {"jpg": TILES[50]["jpg"]}
    assert copy._arguments[2:] == source._arguments[2:]


@pytest.mark.parametrize("space", [1, 5000, 10**6])
def test_tiles_read_together_do_not_overwrite_each_other(place, monkeypatch, space):
    """All tiles of a call are whole at its end, however much memory there was; damage keeps its place."""
    monkeypatch.setattr(local_shards, "READ_BUFFER", space)
    source = open_source(*place)
    for samples in (range(5), range(30, 60), [7], range(100)):
        wanted = [TileRequest(sample, *source.find(sample), ["jpg", "json"]) for sample in samples]
        bad = DamagedTile("known before")
        found = source.read_all([bad, *wanted, bad])
        assert (found[0], found[-1]) == (bad, bad)
        for sample, tile in zip(samples, found[1:-1], strict=True):
            assert {kind: bytes(data) for kind, data in tile.items()} == {
                kind: TILES[sample][kind] for kind in ("jpg", "json")
            }


def test_a_member_that_is_not_there_is_named(local):
    """A label is asked for, and the tile has none."""
    with pytest.raises(DamagedTile, match=r"tile0001: holds \['jpg', 'json'\], no 'label.png'"):
        open_source(local).read(1, ["jpg", "label.png"])


def test_a_record_of_another_data_set_is_refused(local):
    """Offsets of other bytes would give garbage: the sentence says that index and shards do not belong together."""
    record = read_record(local, "plain-000000.tar")
    index = read_index(local)
    write_plain(local.local, make_tiles(100, 2000), (8, 8), COUNTS)
    with pytest.raises(ValueError, match=r"plain-000000\.tar has a record of another build") as caught:
        TileSource(local, index).read(0, ["jpg"])
    assert not isinstance(caught.value, DamagedTile)
    write_record(local, record)
    with pytest.raises(DamagedTile, match="the shard has"):
        TileSource(local, index).read(0, ["jpg"])
