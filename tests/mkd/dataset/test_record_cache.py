"""Offset indexes: read once when needed, whatever the number of threads, and only trusted when they fit the index."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from mkd.dataset import record_cache as module
from mkd.dataset.index import read_index
from mkd.dataset.record_cache import RecordCache
from mkd.dataset.shard_record import read_record, write_record
from mkd.storage.folder import Folder
from tests.helpers.plain import write_plain


class Counting(Folder):
    """A folder that remembers which files were read."""

    def __init__(self, url):
        super().__init__(url)
        self.names, self.lock = [], threading.Lock()

    def read(self, name, start=0, stop=None):
        with self.lock:
            self.names.append(name)
        return super().read(name, start, stop)


@pytest.fixture
def folder(tmp_path):
    tiles = [{"jpg": b"j%d" % n, "json": b"{}"} for n in range(10)]
    write_plain(tmp_path, tiles, (8, 9), [4, 1, 5])
    return Counting(tmp_path)


def test_entries_are_those_of_the_record(folder):
    """Key, size and members of each tile."""
    offsets = RecordCache(folder, index := read_index(folder))
    for shard, info in enumerate(index.shards):
        tiles = tuple(offsets.record(shard, row) for row in range(info.samples))
        assert tiles == read_record(folder, info.file).tiles


def test_records_are_read_once_and_when_needed(folder):
    """Many threads that want the same shard read its record once; other shards' records are left alone."""
    offsets = RecordCache(folder, read_index(folder))
    folder.names.clear()
    with ThreadPoolExecutor(8) as pool:
        entries = list(pool.map(lambda row: offsets.record(2, row % 5), range(40)))
    assert [entry.key for entry in entries[:5]] == [f"tile{n:04d}" for n in range(5, 10)]
    assert folder.names == ["plain-000002.json"]


def test_memory_is_bounded(tmp_path, monkeypatch):
    """The shards used last are remembered, up to a number of tiles; one shard always."""
    folder = Counting(tmp_path)
    write_plain(folder.url, [{"json": b"{}"}] * 11, (8, 9), [2, 2, 2, 5])
    monkeypatch.setattr(module, "MAX_TILES", 4)
    offsets = RecordCache(folder, read_index(folder))
    folder.names.clear()
    for shard in (0, 1, 0, 2, 0, 1, 3, 3):
        offsets.record(shard, 0)
    assert [int(name[6:12]) for name in folder.names] == [0, 1, 2, 1, 3]


@pytest.mark.parametrize("change", [{"sha256": "f" * 64}, {"samples": 5}, {"labelled": 1}, {"bytes": 1}])
def test_a_record_of_another_build_is_refused(folder, change):
    """A record that disagrees with the index is not used: its offsets would be those of other bytes."""
    record = read_record(folder, "plain-000000.tar")
    tiles = record.tiles * 2 if "samples" in change else record.tiles
    other = replace(record, info=replace(record.info, **change), tiles=tiles[: change.get("samples", 4)])
    write_record(folder, other)
    offsets = RecordCache(folder, read_index(folder))
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"plain-000000\.tar has a record of another build .* copy the whole"
        ):
            offsets.record(0, 0)
    assert offsets.record(1, 0).key == "tile0004"
