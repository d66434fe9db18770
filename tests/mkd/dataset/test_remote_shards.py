"""Shards in an object store: neighbours by one request, each byte once, and damage and outages on the way."""

import gc
import os
import random
import threading

import pytest
import s3fs

from mkd.dataset import remote_shards as module
from mkd.dataset.index import read_index
from mkd.dataset.tile_source import DamagedTile, TileSource
from mkd.loader.sampler import Sampler
from mkd.storage.folder import Folder
from tests.helpers.plain import write_plain
from tests.helpers.processes.s3 import mortal_server
from tests.mkd.dataset.byte_tiles import COUNTS, TILES, RecordingFolder, open_source


@pytest.fixture
def remote(tmp_path):
    """Give a recording folder that is not on a disk, with the data set in it."""
    write_plain(f"memory://{tmp_path}", TILES, (8, 8), COUNTS)
    return RecordingFolder(f"memory://{tmp_path}")


def spoil(folder, file, place, data=b"\xff\xfe"):
    """Write other bytes into a shard."""
    content = bytearray(folder.read(file))
    content[place : place + len(data)] = data
    folder.write(file, bytes(content))


def test_neighbours_are_read_by_one_request(remote, monkeypatch):
    """A window of a shard is one range; distant tiles and long stretches are several; each byte is asked for once."""
    monkeypatch.setattr(module, "MAX_GAP", 20_000)
    monkeypatch.setattr(module, "MAX_RANGE", 160_000)
    source = open_source(remote)
    for samples, requests in [
        (range(5, 25), 1),
        ([1, 3, 20, 22], 2),
        (range(38, 44), 3),
        (range(41, 100), 2),
    ]:
        remote.reads.clear()
        order = random.Random(2).sample(list(samples), len(samples))
        source.prefetch(order)
        for sample in order:
            assert source.read(sample, ["jpg"]) == {"jpg": TILES[sample]["jpg"]}
        assert len(remote.reads) == requests
        assert len({name for name, _, _ in remote.reads}) <= requests
    assert source._shards._prefetcher._held_bytes == 0
    assert source._shards._prefetcher._requested == {}


def test_what_was_read_ahead_is_read_once_only(remote):
    """A tile that two epochs want soon is kept for both; what nobody asked for is read when it is wanted."""
    source = open_source(remote)
    source.prefetch([7, 8])
    source.prefetch([7])
    for _ in range(2):
        assert source.read(7, ["jpg"]) == {"jpg": TILES[7]["jpg"]}
    assert len(remote.reads) == 2
    assert source.read(7, ["json"]) == {"json": TILES[7]["json"]}
    assert len(remote.reads) == 3


@pytest.mark.parametrize("prefetched", [[], [3]])
@pytest.mark.parametrize(
    "change", [lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:], lambda data: data[:99]]
)
def test_what_the_net_damaged_is_read_again(remote, caplog, prefetched, change):
    """Bytes that changed or were lost on their way are right the second time, and said; twice wrong is damage."""
    source, bad = open_source(remote), 1

    def damage(data):
        nonlocal bad
        bad -= 1
        return change(data) if bad >= 0 else data

    remote.change = damage
    source.prefetch(prefetched)
    assert source.read(3, ["jpg"]) == {"jpg": TILES[3]["jpg"]}
    assert "tile0003: its 'jpg'" in caplog.text
    assert "reading it again" in caplog.text
    bad = 2
    source.prefetch(prefetched)
    with pytest.raises(DamagedTile, match="tile0003: its 'jpg'"):
        source.read(3, ["jpg"])
    assert bad == 0


def test_a_damaged_copy_is_replaced(tmp_path, remote, caplog):
    """A bad disk under the cache costs a request, not a tile: the copy goes, and is made again."""
    source = open_source(remote, tmp_path / "cache", 10**8)
    source.read(3, ["jpg"])
    (copy,) = (tmp_path / "cache").iterdir()
    content = copy.read_bytes()
    place = source.record(4).members["jpg"].offset
    with open(copy, "r+b") as file:
        file.seek(place)
        file.write(bytes([content[place] ^ 1]))
    assert source.read(4, ["jpg"]) == {"jpg": TILES[4]["jpg"]}
    assert "reading it again" in caplog.text
    assert source.read(4, ["jpg"]) == {"jpg": TILES[4]["jpg"]}
    assert copy.read_bytes() == content


def test_a_cache_keeps_reading_from_the_disk(tmp_path, remote):
    """Each shard is fetched whole once; tiles ahead come from the copies too; no file is left open."""
    gc.collect()  # files of earlier tests
    source, files = open_source(remote, tmp_path / "cache", 10**8), len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        source.prefetch(range(100))
        for sample in range(100):
            assert source.read(sample, ["jpg"]) == {"jpg": TILES[sample]["jpg"]}
    assert len(remote.reads) == 3
    assert len(os.listdir("/proc/self/fd")) <= files


@pytest.mark.parametrize("prefetched", [range(40), []])
def test_objects_that_changed_on_the_server_are_named(s3, prefetched):
    """Truncated, changed and missing objects cost no patience: tiles before the cut are read, others are damaged."""
    write_plain(s3, TILES, (8, 8), COUNTS)
    folder = Folder(s3, patience=3600)
    source, cut = open_source(folder), 20
    end = source.record(cut).members["jpg"].offset + 10
    folder.write("plain-000000.tar", folder.read("plain-000000.tar")[:end])
    spoil(folder, "plain-000000.tar", source.record(5).members["jpg"].offset)
    source.prefetch(prefetched)
    for sample in range(40):
        if sample < cut and sample != 5:
            assert source.read(sample, ["jpg"]) == {"jpg": TILES[sample]["jpg"]}
            continue
        words = "has changed" if sample == 5 else "is cut short"
        with pytest.raises(
            DamagedTile, match=rf"s3://.*plain-000000\.tar:tile{sample:04d}: its 'jpg' {words}"
        ):
            source.read(sample, ["jpg"])
    folder.remove("plain-000002.tar")
    source.prefetch([41, 42])
    for sample in (41, 42):
        with pytest.raises(DamagedTile, match=r"plain-000002\.tar:tile00\d\d: the shard is missing"):
            source.read(sample, ["jpg"])


def test_keys_that_became_wrong_end_a_run(s3, monkeypatch):
    """Refused is not damaged: no loss budget is spent on a wrong key, with and without reading ahead."""
    write_plain(s3, TILES, (8, 8), COUNTS)
    index = read_index(s3)
    Folder(s3).exists("index.json")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    s3fs.S3FileSystem.clear_instance_cache()
    for prefetched in ([], [3]):
        source = TileSource(Folder(s3, patience=3600), index)
        source.prefetch(prefetched)
        with pytest.raises(ValueError, match="access denied") as caught:
            source.read(3, ["jpg"])
        assert not isinstance(caught.value, DamagedTile)


@pytest.mark.slow
def test_an_epoch_outlives_its_server(tmp_path, monkeypatch, caplog):
    """The server is killed and started again in the middle of an epoch: every tile comes once, with its bytes."""
    with mortal_server(tmp_path / "server", monkeypatch) as server:
        write_plain("s3://bkt/set", TILES, (8, 8), COUNTS)
        seen = _epoch(Folder("s3://bkt/set", patience=120), server)
    assert sorted(seen) == list(range(100))
    assert "trying again in" in caplog.text


def _epoch(folder, server):
    """Read an epoch in blocks of 5 steps; the server dies at step 10, and comes back 1 s later."""
    source, plan, seen = open_source(folder), Sampler(COUNTS, 4, 0), []
    for start in range(0, 25, 5):
        steps = list(plan.steps(start, start + 5))
        source.prefetch([sample for pairs in steps for _, sample in pairs])
        if start == 10:  # some tiles are on their way
            server.kill()
            back = threading.Timer(1, server.start)
            back.start()
        for pairs in steps:
            for _, sample in pairs:
                assert source.read(sample, ["jpg"]) == {"jpg": TILES[sample]["jpg"]}
                seen.append(sample)
    back.join()
    return seen
