"""Batches from decoding processes: in order, the same with any number of them, and never a hang."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

from mkd.dataset.index import read_index
from mkd.dataset.tile_decoder import DatasetSpec
from mkd.loader.loader import TileSet, in_order, stream
from mkd.loader.sampler import Sampler
from mkd.loader.workers.pool import QUEUED_BATCHES, DecodingPool, prefetch_blocks
from mkd.loader.workers.shared_buffers import BufferLayout
from mkd.loader.workers.worker_handle import WorkerHandle
from tests.helpers.plain import members_of, smooth, write_plain
from tests.helpers.processes.decoders import decoders, gone, rss

PAIRS = smooth(14, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Fourteen labelled JPEG tiles of 32 x 32 pixels in three uneven shards."""
    tiles = [members_of(*pair, jpeg=True) for pair in PAIRS]
    return write_plain(tmp_path_factory.mktemp("pool") / "set", tiles, (32, 32), [9, 1, 4])


def stream_of(folder, workers, start=0, stop=12, batch=4):
    tiles = TileSet(folder, True)
    return stream(tiles, Sampler(tiles.shard_counts, batch, seed=3), start, stop, workers)


def assert_same(one, other):
    assert [b.ids for b in one] == [b.ids for b in other]
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)


@pytest.mark.parametrize("workers", [1, 2, 3, 6])
def test_any_number_of_workers_gives_the_same_bytes(folder, workers):
    """Fewer, as many and more processes than slots: the same batches in the same order, all of them kept."""
    expected = list(stream_of(folder, 0))
    assert len(expected) == 12
    kept = list(stream_of(folder, workers))  # twice as many as are decoded ahead
    assert len(kept) >= 2 * QUEUED_BATCHES
    assert_same(kept, expected)


def test_a_batch_of_one_is_shared_by_all_workers(folder):
    """Where a batch has one slot the processes take turns, and the order stays."""
    whole = list(in_order(TileSet(folder, True), 1))
    assert_same(list(in_order(TileSet(folder, True), 1, workers=2)), whole)


def test_it_goes_on_at_any_step(folder):
    """A stream entered at step k gives what the whole stream gives from there."""
    assert_same(list(stream_of(folder, 2, start=5)), list(stream_of(folder, 0))[5:])


@pytest.mark.parametrize("moment", ["at once", "after some batches"])
def test_a_killed_worker_is_one_sentence(folder, moment):
    """kill -9, as by a machine out of memory, ends the stream with the signal's name and what to do."""
    batches = stream_of(folder, 2, stop=10**6)
    next(batches)
    if moment == "after some batches":
        for _ in range(20):
            next(batches)
    os.kill(decoders()[1], signal.SIGKILL)
    with pytest.raises(ValueError, match=r"was killed by SIGKILL; .*lower data\.workers") as error:
        for _ in batches:
            pass
    assert "\n" not in str(error.value)
    assert decoders() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_all_workers_killed_is_one_sentence_too(folder, workers):
    """Nobody is left to take an order: that is no error of a socket, whatever answers wait to be heard."""
    batches = stream_of(folder, workers, stop=10**6)
    next(batches)
    time.sleep(0.5)
    pids = decoders()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert gone(pids) == []
    with pytest.raises(ValueError, match=r"was killed by SIGKILL"):
        for _ in batches:
            pass
    assert decoders() == []


def test_a_process_that_falls_behind_is_helped(folder, monkeypatch):
    """What waits behind its first parts is done by the other process, with the same bytes."""
    sent = []
    send = WorkerHandle.send

    def sending(self, message):
        sent.append((self.process.pid, message))
        send(self, message)

    monkeypatch.setattr(WorkerHandle, "send", sending)
    tiles = TileSet(folder, True)
    steps = list(Sampler(tiles.shard_counts, 4, seed=3).steps(0, 12))
    with DecodingPool(tiles.spec, BufferLayout(4, 32, 32), 2) as pool:
        slow, fast = (worker.process.pid for worker in pool._workers)
        batches = pool.batches([steps])
        os.kill(slow, signal.SIGSTOP)
        begin = threading.Timer(1, os.kill, (slow, signal.SIGCONT))
        begin.start()
        pairs = [filled.pairs for filled in batches]
        begin.join()
    assert pairs == steps
    orders = [(pid, order.part) for pid, message in sent if isinstance(message, list) for order in message]
    assert (fast, 0) in orders
    assert (slow, 1) not in orders[:8]


def test_a_mistake_of_ours_keeps_its_traceback(folder):
    """An error that is nobody's data comes as it is, not as a sentence."""
    spec = DatasetSpec(folder, None, True)
    with (
        DecodingPool(spec, BufferLayout(4, 32, 32), 1) as pool,
        pytest.raises(RuntimeError, match="Traceback.*\n.*worker"),
    ):
        list(pool.batches([[[(0, 0)]]]))


@pytest.mark.parametrize("taken", [0, 3])
def test_a_stream_that_is_left_ends_its_processes(folder, taken):
    """Leaving a stream before its end leaves no process, and what was taken stays."""
    expected = list(stream_of(folder, 0, stop=taken))
    batches = stream_of(folder, 2, stop=10**6)
    kept = [next(batches) for _ in range(taken)]
    batches.close()
    assert decoders() == []
    assert_same(kept, expected)


def test_two_streams_side_by_side(folder):
    """Labelled and unlabelled streams do not hold each other's processes open."""
    one, two = stream_of(folder, 1), stream_of(folder, 1, batch=2)
    next(one), next(two)
    assert len(decoders()) == 2
    one.close()
    assert len(decoders()) == 1
    assert len(list(two)) == 11


def test_memory_is_flat(folder):
    """From a tenth of a long stream to its end no process grows by more than 5 %.

    One that had hardly any work by then, beside a faster one, may still grow to the other's size.
    """
    batches = stream_of(folder, 2, stop=1500, batch=8)
    sizes = []
    for n, _ in enumerate(batches):
        if n in (150, 1499):
            each = [rss(pid) for pid in decoders()]
            assert len(each) == 2
            sizes.append([rss(os.getpid()), max(each)])
    early, late = np.array(sizes)
    assert (late <= 1.05 * early).all(), (early, late)


def test_tiles_of_a_block_are_announced_before_they_are_asked_for():
    """A block is announced when the one before it begins: storage has a block's time to answer."""
    said = []
    blocks = [[["a"], ["b"]], [["c"]], [["d"], ["e"]]]
    for pairs in prefetch_blocks(iter(blocks), said.append):
        assert pairs in said[-2] + said[-1] if len(said) > 1 else said[0]
        assert said == blocks[: {"a": 2, "b": 2, "c": 3, "d": 3, "e": 3}[pairs[0]]]
    assert said == blocks


def test_from_s3_it_is_the_same(folder, s3, tmp_path):
    """A data set behind a URL gives the bytes of the local one, from any step on."""
    pairs = [members_of(*pair, jpeg=True) for pair in PAIRS]
    write_plain(s3, pairs, (32, 32), [9, 1, 4])
    assert read_index(s3) == read_index(folder)
    expected = list(stream_of(folder, 0))
    assert_same(list(stream_of(s3, 2)), expected)
    assert_same(list(stream_of(s3, 0, start=7)), expected[7:])
