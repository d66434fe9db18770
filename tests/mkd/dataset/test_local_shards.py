"""Shards on a disk: opened when needed, few at a time, and what changed under the reader is named."""

import os

import pytest

from mkd.dataset import local_shards as module
from mkd.dataset.tile_source import DamagedTile
from mkd.storage.folder import Folder
from tests.helpers.plain import write_plain
from tests.mkd.dataset.byte_tiles import COUNTS, TILES, make_tiles, open_source


@pytest.fixture
def local(tmp_path):
    """Give a folder on a disk with the data set in it."""
    write_plain(tmp_path, TILES, (8, 8), COUNTS)
    return Folder(tmp_path)


def test_only_what_is_needed_is_touched(local):
    """A shard and its record are opened when one of its tiles is read: a resume needs no other."""
    source = open_source(local)
    for file in ("plain-000000.tar", "plain-000000.json", "plain-000001.tar", "plain-000001.json"):
        local.remove(file)
    assert source.read(99, ["jpg"]) == {"jpg": TILES[99]["jpg"]}


def test_open_files_are_bounded(local, monkeypatch):
    """A data set of many shards does not use up the files that a process may open."""
    monkeypatch.setattr(module, "MAX_OPEN_FILES", 2)
    source, before = open_source(local), len(os.listdir("/proc/self/fd"))
    for sample in (0, 40, 99, 0, 41, 40):
        source.read(sample, ["jpg"])
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    source.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_local_shard_that_changed_is_named(local):
    """A flipped byte, and a shard that was cut short or lost after the start: shard, key, what is wrong, what to do."""
    source = open_source(local)
    source.read(0, ["jpg"])
    entry = source.record(2)
    with open(local.local / "plain-000000.tar", "r+b") as file:
        file.seek(entry.members["jpg"].offset + 5)
        file.write(b"\xff\xfe")
    with pytest.raises(
        DamagedTile,
        match=r"plain-000000\.tar:tile0002: its 'jpg' has changed, CRC-32 .*'python -m shards verify",
    ):
        source.read(2, ["jpg"])
    assert source.read(2, ["json"]) == {"json": TILES[2]["json"]}
    os.truncate(local.local / "plain-000000.tar", entry.members["json"].offset + 1)
    with pytest.raises(
        DamagedTile, match=r"plain-000000\.tar:tile0002: its 'json' is cut short, 1 bytes of 8"
    ):
        source.read(2, ["json"])
    assert source.read(1, ["jpg"]) == {"jpg": TILES[1]["jpg"]}
    os.truncate(local.local / "plain-000002.tar", 500)
    with pytest.raises(
        DamagedTile, match=r"plain-000002\.tar:tile0041: the shard has 500 bytes, the index says"
    ):
        source.read(41, ["jpg"])
    local.remove("plain-000001.tar")
    with pytest.raises(DamagedTile, match=r"plain-000001\.tar:tile0040: the shard is missing; run") as caught:
        source.read(40, ["jpg"])
    assert str(caught.value).count("\n") == 0


def test_a_large_batch_opens_each_shard_once(tmp_path, monkeypatch):
    """256 slots read from as many shards, again and again: files stay open, those used last the longest."""
    tiles = make_tiles(520, size=10)
    source = open_source(Folder(write_plain(tmp_path, tiles, (8, 8), [2] * 260)))
    opened, ordinary = [], os.open
    monkeypatch.setattr(module.os, "open", lambda path, *more: opened.append(path) or ordinary(path, *more))
    for _ in range(3):
        for shard in range(256):
            source.read(2 * shard, ["jpg"])
    assert len(opened) == 256
    source.close()
    monkeypatch.setattr(module, "MAX_OPEN_FILES", 2)
    source = open_source(Folder(tmp_path))
    opened.clear()
    for shard in (0, 1, 0, 2, 0, 3, 0):  # the first is used all the time, and never closed
        source.read(2 * shard, ["jpg"])
    assert len(opened) == 4
    source.close()
