"""Members of tiles: the bytes that were packed, wherever the shards are, or one sentence about what is wrong."""

import gc
import os
import pickle
import random
import threading

import pytest
import s3fs

from mkd.dataset import tile_source as module
from mkd.dataset.index import read_index
from mkd.dataset.shard_record import read_record, write_record
from mkd.dataset.tile_source import DamagedTile, TileRequest, TileSource
from mkd.loader.sampler import Sampler
from mkd.storage.folder import Folder
from tests.helpers.plain import write_plain
from tests.helpers.processes.s3 import mortal_server

COUNTS = [40, 1, 59]


def make_tiles(count, size=3000):
    """Make tiles of random bytes; every third has a label."""
    rng = random.Random(0)
    tiles = [
        {"jpg": rng.randbytes(size + n), "label.png": rng.randbytes(50), "json": b'{"n": %d}' % n}
        for n in range(count)
    ]
    return [
        tile if n % 3 == 0 else {"jpg": tile["jpg"], "json": tile["json"]} for n, tile in enumerate(tiles)
    ]


TILES = make_tiles(sum(COUNTS))


class Watched(Folder):
    """A folder that remembers what is read of shards, and may change it on the way."""

    def __init__(self, url, patience=5):
        super().__init__(url, patience)
        self.reads, self.change, self.lock = [], lambda data: data, threading.Lock()

    def read(self, name, start=0, stop=None):
        data = super().read(name, start, stop)
        if not name.endswith(".tar"):
            return data
        with self.lock:
            self.reads.append((name, start, stop))
            return self.change(data)


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
def remote(tmp_path):
    """Give a watched folder that is not on a disk, with the data set in it."""
    write_plain(f"memory://{tmp_path}", TILES, (8, 8), COUNTS)
    return Watched(f"memory://{tmp_path}")


@pytest.fixture
def local(tmp_path):
    """Give a folder on a disk with the data set in it."""
    write_plain(tmp_path, TILES, (8, 8), COUNTS)
    return Folder(tmp_path)


def open_source(folder, *cache):
    return TileSource(folder, read_index(folder), *cache)


def spoil(folder, file, place, data=b"\xff\xfe"):
    """Write other bytes into a shard."""
    content = bytearray(folder.read(file))
    content[place : place + len(data)] = data
    folder.write(file, bytes(content))


@pytest.mark.parametrize("ahead_of", [0, 7])
def test_members_are_what_was_packed(place, ahead_of):
    """All members, and any choice of them, in any order, with and without reading ahead."""
    source = open_source(*place)
    order = random.Random(1).sample(range(100), 100)
    for step, sample in enumerate(order):
        if ahead_of and step % ahead_of == 0:
            source.prefetch(order[step : step + ahead_of])
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


def test_only_what_is_needed_is_touched(local):
    """A shard and its record are opened when one of its tiles is read: a resume needs no other."""
    source = open_source(local)
    for file in ("plain-000000.tar", "plain-000000.json", "plain-000001.tar", "plain-000001.json"):
        local.remove(file)
    assert source.read(99, ["jpg"]) == {"jpg": TILES[99]["jpg"]}


@pytest.mark.parametrize("space", [1, 5000, 10**6])
def test_tiles_read_together_do_not_overwrite_each_other(place, monkeypatch, space):
    """All tiles of a call are whole at its end, however much memory there was; damage keeps its place."""
    monkeypatch.setattr(module, "READ_BUFFER", space)
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


def test_open_files_are_bounded(local, monkeypatch):
    """A data set of many shards does not use up the files that a process may open."""
    monkeypatch.setattr(module, "MAX_OPEN_FILES", 2)
    source, before = open_source(local), len(os.listdir("/proc/self/fd"))
    for sample in (0, 40, 99, 0, 41, 40):
        source.read(sample, ["jpg"])
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    source.close()
    assert len(os.listdir("/proc/self/fd")) == before


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
    assert source._prefetcher._held_bytes == 0
    assert source._prefetcher._requested == {}


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


def test_a_local_shard_that_changed_is_named(local):
    """A flipped byte, and a shard that was cut short or lost after the start: shard, key, what is wrong, what to do."""
    source = open_source(local)
    source.read(0, ["jpg"])
    entry = source.record(2)
    with open(local.local / "plain-000000.tar", "r+b") as file:
        file.seek(entry.members["jpg"].offset + 5)
        file.write(b"\xff\xfe")
    with pytest.raises(
        DamagedTile, match=r"plain-000000\.tar:tile0002: its 'jpg' has changed, CRC-32 .*'shards verify"
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


def test_a_member_that_is_not_there_is_named(local):
    """A label is asked for, and the tile has none."""
    with pytest.raises(DamagedTile, match=r"tile0001: holds \['jpg', 'json'\], no 'label.png'"):
        open_source(local).read(1, ["jpg", "label.png"])


@pytest.mark.parametrize("ahead_of", [[], [3]])
@pytest.mark.parametrize(
    "change", [lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:], lambda data: data[:99]]
)
def test_what_the_net_damaged_is_read_again(remote, caplog, ahead_of, change):
    """Bytes that changed or were lost on their way are right the second time, and said; twice wrong is damage."""
    source, bad = open_source(remote), 1

    def damage(data):
        nonlocal bad
        bad -= 1
        return change(data) if bad >= 0 else data

    remote.change = damage
    source.prefetch(ahead_of)
    assert source.read(3, ["jpg"]) == {"jpg": TILES[3]["jpg"]}
    assert "tile0003: its 'jpg'" in caplog.text
    assert "reading it again" in caplog.text
    bad = 2
    source.prefetch(ahead_of)
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


@pytest.mark.parametrize("ahead_of", [range(40), []])
def test_objects_that_changed_on_the_server_are_named(s3, ahead_of):
    """Truncated, changed and missing objects cost no patience: tiles before the cut are read, others are damaged."""
    write_plain(s3, TILES, (8, 8), COUNTS)
    folder = Folder(s3, patience=3600)
    source, cut = open_source(folder), 20
    end = source.record(cut).members["jpg"].offset + 10
    folder.write("plain-000000.tar", folder.read("plain-000000.tar")[:end])
    spoil(folder, "plain-000000.tar", source.record(5).members["jpg"].offset)
    source.prefetch(ahead_of)
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
    for ahead_of in ([], [3]):
        source = TileSource(Folder(s3, patience=3600), index)
        source.prefetch(ahead_of)
        with pytest.raises(ValueError, match="access denied") as caught:
            source.read(3, ["jpg"])
        assert not isinstance(caught.value, DamagedTile)


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
