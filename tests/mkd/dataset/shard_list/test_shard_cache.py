"""Copies of shards: made once for all processes, bounded in size, checked, and never in the way of reading."""

import errno
import fcntl
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mkd.dataset import shard_cache as module
from mkd.dataset.index import read_index
from mkd.dataset.shard_cache import ShardCache
from mkd.storage.folder import Folder
from tests.helpers.plain import write_plain


@pytest.fixture
def origin(tmp_path):
    """Give a data set of five shards of equal size; to a cache any folder is remote."""
    rng = random.Random(0)
    write_plain(tmp_path / "data", [{"jpg": rng.randbytes(5000)} for _ in range(5)], (8, 8), [1] * 5)
    return Folder(tmp_path / "data")


@pytest.fixture
def shards(origin):
    return read_index(origin).shards


def content(file):
    """Read and close what a cache opened."""
    try:
        return os.pread(file, 1 << 30, 0)
    finally:
        os.close(file)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_shard_is_copied_once(tmp_path, origin, shards):
    """The copy has the shard's bytes and the name of its content, and is used when the origin is gone."""
    cache, expected = ShardCache(tmp_path / "a" / "b", 10**6), origin.read(shards[0].file)
    assert content(cache.open(origin, shards[0])) == expected
    assert names(cache.folder) == [f"{shards[0].sha256}.tar"]
    origin.remove(shards[0].file)
    assert content(ShardCache(cache.folder, 10**6).open(origin, shards[0])) == expected


def test_the_least_recently_used_makes_room(tmp_path, origin, shards, monkeypatch):
    """The size stays below the limit; what was read last stays; an open copy is read to its end."""
    monkeypatch.setattr(module, "IN_USE_SECONDS", 0)
    cache = ShardCache(tmp_path / "cache", 3 * shards[0].bytes)
    for number in (0, 1, 2, 1, 0, 3, 4):
        file = cache.open(origin, shards[number])
        assert sum(path.stat().st_size for path in cache.folder.iterdir()) <= cache.limit
        if number == 2:
            held = file
        else:
            os.close(file)
        time.sleep(0.02)  # file times are coarse
    assert names(cache.folder) == sorted(f"{shards[n].sha256}.tar" for n in (0, 3, 4))
    assert content(held) == origin.read(shards[2].file)


def test_what_is_in_use_is_not_thrown_out(tmp_path, origin, shards, caplog, monkeypatch):
    """A cache smaller than what is read at a time says so once and copies no more: it does not copy in circles."""
    cache = ShardCache(tmp_path / "cache", 2 * shards[0].bytes)
    for shard in shards[:2]:
        os.close(cache.open(origin, shard))
    assert [cache.open(origin, shard) for shard in shards[2:]] == [None] * 3
    assert len(caplog.messages) == 1
    assert "no copy in" in caplog.text
    assert "give the cache more room" in caplog.text
    os.close(cache.open(origin, shards[0]))
    monkeypatch.setattr(module, "IN_USE_SECONDS", -1)  # a minute later
    cache._uncached_until.clear()
    os.close(cache.open(origin, shards[2]))
    assert len(names(cache.folder)) == 2


def test_a_shard_larger_than_the_cache_is_not_copied(tmp_path, origin, shards, caplog):
    """A limit of a few bytes is said, and nothing is left behind."""
    cache = ShardCache(tmp_path / "cache", 100)
    assert cache.open(origin, shards[0]) is None
    assert "more than its 100 bytes" in caplog.text
    assert names(cache.folder) == []


def test_a_damaged_origin_is_not_copied(tmp_path, origin, shards, caplog):
    """A copy whose SHA-256 is not the index's is not kept; a shorter one neither."""
    cache = ShardCache(tmp_path / "cache", 10**6)
    for shard, change in [(shards[0], lambda data: b"x" + data[1:]), (shards[1], lambda data: data[:-1])]:
        origin.write(shard.file, change(origin.read(shard.file)))
        assert cache.open(origin, shard) is None
        assert f"{shard.file}: no copy in" in caplog.messages[-1]
        assert "the index says" in caplog.messages[-1]
    assert names(cache.folder) == []


def test_a_missing_shard_is_an_error(tmp_path, origin, shards):
    """It is not for the cache to decide what to do without a shard."""
    origin.remove(shards[0].file)
    cache = ShardCache(tmp_path / "cache", 10**6)
    with pytest.raises(FileNotFoundError):
        cache.open(origin, shards[0])
    assert names(cache.folder) == []


def test_a_copy_that_another_process_gave_up_is_made(tmp_path, origin, shards):
    """Who waited for a copy that failed does not write into the removed draft, but makes one of its own."""
    cache = ShardCache(tmp_path / "cache", 10**6)
    draft = cache.folder / f".part-{shards[0].sha256}"
    with ThreadPoolExecutor(1) as pool, open(draft, "wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = pool.submit(cache.open, origin, shards[0])
        time.sleep(0.2)
        assert not waiting.done()
        draft.unlink()
        fcntl.flock(held, fcntl.LOCK_UN)
        assert content(waiting.result(60)) == origin.read(shards[0].file)
    assert names(cache.folder) == [f"{shards[0].sha256}.tar"]


def test_a_copy_of_another_size_is_made_again(tmp_path, origin, shards):
    """What a crash of the machine cut short is not read."""
    cache = ShardCache(tmp_path / "cache", 10**6)
    os.close(cache.open(origin, shards[0]))
    path = cache.folder / f"{shards[0].sha256}.tar"
    os.truncate(path, 100)
    assert content(cache.open(origin, shards[0])) == origin.read(shards[0].file)
    cache.drop(shards[0])
    cache.drop(shards[0])
    assert names(cache.folder) == []


def test_a_folder_that_is_removed_is_made_again(tmp_path, origin, shards):
    """Someone tidies up while a run goes on."""
    cache = ShardCache(tmp_path / "cache", 10**6)
    cache.folder.rmdir()
    assert content(cache.open(origin, shards[0])) == origin.read(shards[0].file)


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    """A cache below a file is one sentence at the start."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file/cache cannot be made .* give another cache folder, or none"):
        ShardCache(tmp_path / "file" / "cache", 100)


PROCESS = """
import os, resource, signal, sys, time
from pathlib import Path
from mkd.dataset import shard_cache as module
from mkd.dataset.shard_cache import ShardCache
from mkd.dataset.index import read_index
from mkd.storage.folder import Folder

class Slow(Folder):
    def read(self, name, start=0, stop=None):
        with open(sys.argv[3], "a") as log:
            log.write(f"{name} {start}\\n")
        time.sleep(float(sys.argv[4]))
        return super().read(name, start, stop)

module.CHUNK = 2000
origin, full = Slow(sys.argv[1]), int(sys.argv[5])
if full:
    resource.setrlimit(resource.RLIMIT_FSIZE, (full, full))
cache = ShardCache(Path(sys.argv[2]), 10**6)
for shard in read_index(sys.argv[1]).shards[:2]:
    file = cache.open(origin, shard)
    print(None if file is None else os.pread(file, 1 << 30, 0) == (origin.local / shard.file).read_bytes(), flush=True)
"""


def start(tmp_path, origin, wait=0.0, full=0):
    arguments = [origin.url, tmp_path / "cache", tmp_path / "log", wait, full]
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_several_processes_copy_a_shard_once(tmp_path, origin, shards):
    """Of the ranks of a node one copies and the others wait: each piece is asked for once."""
    processes = [start(tmp_path, origin, 0.02) for _ in range(4)]
    assert [process.communicate(timeout=120)[0] for process in processes] == ["True\nTrue\n"] * 4
    asked = (tmp_path / "log").read_text().splitlines()
    assert len(asked) == len(set(asked)) == 2 * -(-shards[0].bytes // 2000)
    assert names(tmp_path / "cache") == sorted(f"{shard.sha256}.tar" for shard in shards[:2])


def test_a_killed_copy_is_made_again(tmp_path, origin, shards):
    """kill -9 in the middle of a copy: its draft is no copy, is written over or makes room for others."""
    process, log = start(tmp_path, origin, 0.5), tmp_path / "log"
    while not log.exists() or log.read_text().count("\n") < 3:
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=60)
    draft = f".part-{shards[0].sha256}"
    assert names(tmp_path / "cache") == [draft]
    cache = ShardCache(tmp_path / "cache", shards[0].bytes)
    os.close(cache.open(origin, shards[1]))
    assert names(cache.folder) == [f"{shards[1].sha256}.tar"]
    (cache.folder / draft).write_bytes(b"x" * 10**5)
    assert content(ShardCache(cache.folder, 2 * shards[0].bytes).open(origin, shards[0])) == origin.read(
        shards[0].file
    )
    assert draft not in names(cache.folder)


def test_a_full_disk_is_said_and_read_around(tmp_path, origin):
    """No room for a file of this size: one line, no draft left, and the caller reads the origin."""
    output, said = start(tmp_path, origin, full=4000).communicate(timeout=60)
    assert output == "None\nNone\n"
    assert said.strip().count("\n") == 0
    assert f"no copy in {tmp_path / 'cache'} ({os.strerror(errno.EFBIG)}); it is read from the server" in said
    assert names(tmp_path / "cache") == []
