"""Reading ahead: what was asked for is read once, in bounded memory, and never waited for in vain."""

import threading

import pytest

from mkd.dataset.prefetch import Prefetcher, Span


class Slow:
    """Reads samples when it is let; remembers the requests."""

    def __init__(self):
        self.gate, self.begun, self.requests = threading.Event(), threading.Semaphore(0), []

    def fetch(self, samples):
        self.requests.append(list(samples))
        self.begun.release()
        assert self.gate.wait(60)
        return [Span(sample, b"%d" % sample) for sample in samples]


@pytest.fixture
def slow():
    slow = Slow()
    yield slow
    slow.gate.set()


def wait_for(slow, requests):
    for _ in range(requests):
        assert slow.begun.acquire(timeout=60)


def test_what_was_ordered_is_taken_once(slow):
    """Each order is one request; a tile can be taken as often as it was asked for."""
    slow.gate.set()
    ahead = Prefetcher(slow.fetch)
    ahead.request([4, 5, 6], 1)
    ahead.request([5], 1)
    wait_for(slow, 2)
    assert [ahead.pop(sample) for sample in (5, 4, 5, 6)] == [Span(n, b"%d" % n) for n in (5, 4, 5, 6)]
    assert [ahead.pop(sample) for sample in (4, 5, 9)] == [None] * 3
    assert sorted(slow.requests) == [[4, 5, 6], [5]]
    ahead.close()


def test_a_tile_in_flight_is_waited_for(slow):
    """A request that has begun is not sent a second time."""
    ahead = Prefetcher(slow.fetch)
    ahead.request([1, 2], 1)
    wait_for(slow, 1)
    threading.Timer(0.1, slow.gate.set).start()
    assert ahead.pop(2) == Span(2, b"2")
    ahead.close()


def test_memory_is_bounded(slow):
    """Orders beyond the limit wait until tiles are taken."""
    slow.gate.set()
    ahead = Prefetcher(slow.fetch, max_bytes=10)
    for first in range(0, 6, 2):
        ahead.request([first, first + 1], 3)  # 6 bytes each: a second one would make 12
    wait_for(slow, 1)
    assert [ahead.pop(sample) for sample in (0, 1)] == [Span(0, b"0"), Span(1, b"1")]
    wait_for(slow, 1)
    assert slow.requests == [[0, 1], [2, 3]]
    assert [ahead.pop(sample) for sample in (2, 3)] == [Span(2, b"2"), Span(3, b"3")]
    wait_for(slow, 1)
    assert slow.requests[2] == [4, 5]
    ahead.close()


def test_who_comes_before_an_orders_turn_reads_it_whole(slow):
    """A tile of an order that waits for room is not asked for alone: its neighbours come by the same request."""
    slow.gate.set()
    ahead = Prefetcher(slow.fetch, max_bytes=10)
    for first in range(0, 6, 2):
        ahead.request([first, first + 1], 3)
    wait_for(slow, 1)
    assert [ahead.pop(sample) for sample in (5, 4)] == [Span(5, b"5"), Span(4, b"4")]
    assert slow.requests == [[0, 1], [4, 5]]
    assert [ahead.pop(sample) for sample in range(4)] == [Span(n, b"%d" % n) for n in range(4)]
    assert slow.requests[2:] == [[2, 3]]
    ahead.close()


def test_an_order_larger_than_the_limit_is_read_alone(slow):
    """A limit smaller than a tile stops nothing."""
    slow.gate.set()
    ahead = Prefetcher(slow.fetch, max_bytes=1)
    ahead.request([1], 100)
    wait_for(slow, 1)
    assert ahead.pop(1) == Span(1, b"1")
    ahead.close()


def test_an_error_is_told_to_who_takes_the_tile():
    """Each tile of a request that failed raises its error, and the threads live on."""

    def fetch(samples):
        if samples[0] == 1:
            raise FileNotFoundError("gone")
        return [Span(0, b"") for _ in samples]

    ahead, begun = Prefetcher(fetch), threading.Event()
    ahead._fetch = lambda samples: begun.set() or fetch(samples)
    for _ in range(20):
        begun.clear()
        ahead.request([1, 2], 1)
        assert begun.wait(60)
        for sample in (1, 2):
            with pytest.raises(FileNotFoundError, match="gone"):
                ahead.pop(sample)
    ahead.close()


def test_the_end_stops_the_threads(slow):
    """After the end nothing is read, and no thread is left."""
    ahead = Prefetcher(slow.fetch, max_bytes=1)
    for sample in range(20):
        ahead.request([sample], 1)
    wait_for(slow, 1)
    ahead.close()
    slow.gate.set()
    for thread in ahead._threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in ahead._threads)
    assert len(slow.requests) == 1
