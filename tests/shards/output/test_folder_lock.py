"""Locks: one job a folder, parts beside each other, dead jobs' locks count no more, a lost lock is noticed."""

import json
import multiprocessing
import os
import time

import pytest

import shards.output.folder_lock
from mkd.storage.folder import Folder
from shards.output.folder_lock import lock_folder

KINDS = ["local", "memory"]


@pytest.fixture(params=KINDS)
def place(request, tmp_path):
    """Give an empty folder, on the disk or behind a URL."""
    if request.param == "local":
        return Folder(tmp_path)
    return Folder(f"memory://{tmp_path.name}")


@pytest.mark.parametrize(
    ("first", "second", "allowed"),
    [
        (None, None, False),
        (None, (1, 2), False),
        ((1, 2), None, False),
        ((1, 2), (1, 2), False),
        ((1, 2), (2, 3), False),
        ((1, 2), (2, 2), True),
    ],
)
def test_only_other_parts_of_the_same_number_run_side_by_side(place, first, second, allowed):
    """Every other pair is refused, naming the job; afterwards nothing is left of any lock."""
    with lock_folder(place, first) as one:
        assert one.exclusive
        if allowed:
            with lock_folder(place, second) as two:
                assert not two.exclusive
        else:
            with pytest.raises(ValueError, match=f"another job builds in .*process {os.getpid()} on"):
                lock_folder(place, second).__enter__()
    assert place.sizes() == {}
    with lock_folder(place, second):
        pass


def test_locks_of_the_dead_count_no_more(place, monkeypatch):
    """A file that nobody holds, an object without a sign of life: both are replaced."""
    old = {
        "host": "gone",
        "process": 1,
        "token": "x",
        "beat": time.time() - shards.output.folder_lock.STALE_AFTER_S - 1,
    }
    for name in (".lock", ".lock-1-of-2"):
        place.write(name, json.dumps(old))
    with lock_folder(place) as lock:
        assert lock.exclusive
    assert place.sizes() == {}


def test_an_object_with_a_sign_of_life_is_respected_whoever_holds_it(tmp_path):
    """Behind a URL the holder may be on another machine; its last sign decides."""
    place = Folder(f"memory://{tmp_path.name}")
    sign = {"host": "elsewhere", "process": 7, "token": "x", "beat": time.time() - 100}
    place.write(".lock-1-of-2", json.dumps(sign))
    with pytest.raises(ValueError, match=r"process 7 on elsewhere, last sign of life 1\d\d s ago; it counts"):
        lock_folder(place).__enter__()
    with lock_folder(place, (2, 2)) as lock:
        assert not lock.exclusive
    assert set(place.sizes()) == {".lock-1-of-2"}


def test_a_lock_gives_signs_of_life_and_notices_its_loss(tmp_path, monkeypatch):
    """The object is renewed; when another job has replaced it, the build must stop and leave it alone."""
    monkeypatch.setattr(shards.output.folder_lock, "HEARTBEAT_S", 0.05)
    place = Folder(f"memory://{tmp_path.name}")
    with lock_folder(place) as lock:
        first = json.loads(place.read(".lock"))["beat"]
        wait_until(lambda: json.loads(place.read(".lock"))["beat"] > first)
        lock.check()
        wait_until(lambda: replaced(place, lock))
        with pytest.raises(ValueError, match="another one took its lock"):
            lock.check()
    assert json.loads(place.read(".lock"))["token"] == "another"


def replaced(place, lock):
    """Put another job's lock there, until this is noticed."""
    place.write(".lock", json.dumps({"host": "b", "process": 2, "token": "another", "beat": time.time()}))
    time.sleep(0.02)
    return lock.lost.is_set()


def many(folder, number, start, results):
    """Take the lock of one part of many at the same moment as the others."""
    start.wait()
    try:
        with lock_folder(Folder(folder), (number, 6)):
            time.sleep(0.3)
        results.put(None)
    except ValueError as error:
        results.put(str(error))


def test_many_parts_that_start_at_the_same_time_all_run(tmp_path):
    """Looking at each other's locks does not make one refuse."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(6), context.Queue()
    jobs = [context.Process(target=many, args=(str(tmp_path), n, start, results)) for n in range(1, 7)]
    for job in jobs:
        job.start()
    assert [results.get(timeout=60) for _ in jobs] == [None] * 6
    for job in jobs:
        job.join()
    assert not list(tmp_path.iterdir())


def wait_until(ready):
    """Wait for something that must come; a minute without it fails."""
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline, "it did not come for a minute"
        time.sleep(0.01)


def test_signs_of_life_outlive_any_error(tmp_path, monkeypatch):
    """An error that nobody thought of does not end them in silence."""
    monkeypatch.setattr(shards.output.folder_lock, "HEARTBEAT_S", 0.02)
    place, errors = Folder(f"memory://{tmp_path.name}"), [KeyError("x"), RuntimeError("y"), OSError("z")]
    ordinary = Folder.write

    def failing(self, name, data):
        if errors and name == ".lock":
            raise errors.pop()
        return ordinary(self, name, data)

    with lock_folder(place) as lock:
        first = json.loads(place.read(".lock"))["beat"]
        monkeypatch.setattr(Folder, "write", failing)
        wait_until(lambda: json.loads(place.read(".lock"))["beat"] > first)
        assert not errors
        lock.confirm()
        monkeypatch.undo()
        place.write(".lock", "[]")
        with pytest.raises(ValueError, match="another one took its lock"):
            lock.confirm()
