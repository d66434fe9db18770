"""Answers that do not come though hellos are answered, and teachers that turn slow: the student goes elsewhere."""

import threading
import time

import pyarrow as pa
import pytest

from mkd.teacher.api import TeachersGone
from mkd.teacher.client import flight_client
from mkd.teacher.client.connection import heartbeat
from mkd.teacher.client.flight_client import Access, FlightClient
from mkd.teacher.server import answer_stream
from tests.helpers.teacher.services import IDENTITY, TOKEN, ask, remote, service, until, weak_views
from tests.helpers.training.nets import tiny_net


class Writer:
    """Fails at some answers."""

    def __init__(self, writer, fails):
        self.writer, self.fails = writer, fails

    def __getattr__(self, name):
        return getattr(self.writer, name)

    def write_with_metadata(self, *given):
        if self.fails():
            raise self.fails.error
        self.writer.write_with_metadata(*given)


class Fails:
    """Says whether the next answer is lost: the n-th ones in `which`, or all from the second on."""

    def __init__(self, error, which=None):
        self.error, self.which, self.count = error, which, 0

    def __call__(self):
        self.count += 1
        return self.count in self.which if self.which else self.count > 1


def losing(monkeypatch, fails):
    real = answer_stream.AnswerStream.__init__
    lossy = lambda self, writer, *given: real(self, Writer(writer, fails), *given)  # noqa: E731
    monkeypatch.setattr(answer_stream.AnswerStream, "__init__", lossy)


@pytest.mark.parametrize("error", [pa.ArrowMemoryError("malloc failed"), MemoryError("no memory")])
def test_a_lost_answer_is_asked_again(monkeypatch, error):
    """The service answers hellos, but has nothing of ours: the student connects again and asks again."""
    losing(monkeypatch, Fails(error, which=[2]))
    said = []
    with service() as place:
        teacher = remote(tiny_net(), place.endpoint, said=said)
        assert all(ask(teacher, n).score.shape == (4,) for n in range(3))
        assert teacher.stats.retries == 1
        teacher.close()
    assert len([s for s in said if s.startswith("teacher") and "knows nothing of a request" in s]) == 1


def test_a_teacher_that_loses_all_answers_is_none(monkeypatch):
    """It is up again after each loss, but the student's patience ends."""
    losing(monkeypatch, Fails(MemoryError("no memory")))
    with service() as place:
        teacher = remote(tiny_net(), place.endpoint, patience=3.0, said=[])
        ask(teacher)
        with pytest.raises(TeachersGone, match="no teacher for .* knows nothing of a request"):
            ask(teacher, 1)
        teacher.close()


def test_a_busy_teacher_loses_nothing():
    """A request that waits behind others for longer than a hello may take is not taken for a lost one."""
    event, said = threading.Event(), []
    with service() as place:
        teacher = remote(tiny_net(), place.endpoint, said=said, timeout=0.3)
        ask(teacher)
        place.batcher.model.register_forward_pre_hook(lambda *_: event.wait(60) and None)
        for n in range(4):
            teacher.submit(n, weak_views(n), 0.0)
        (one,) = teacher._dispatcher.endpoints
        client = one.channel.client
        hellos, hello = [], client.hello
        client.hello = lambda: hellos.append(hello()) or hellos[-1]
        until(lambda: len(hellos) >= 3)
        event.set()
        assert all(g.pending == 4 for g in hellos[:3])
        assert all(teacher.collect(n).score.shape == (4,) for n in range(4))
        assert teacher.stats.retries == 0
        teacher.close()
    assert len(said) == 1


def test_a_teacher_that_turns_slow_in_mid_batch_is_left():
    """The answer waited for is asked of the idle teacher too, which gets all the rest until the slow one is done."""
    event, student = threading.Event(), tiny_net()
    with service() as turning, service() as other:
        for place in (turning, other):  # so that jitter does not decide who is asked
            place.batcher.model.register_forward_pre_hook(lambda *_: time.sleep(0.02))
        teacher = remote(student, turning.endpoint, other.endpoint, depth=2, patience=600.0, said=[])
        for n in range(2):
            teacher.submit(n, weak_views(n), 0.0)
        for n in range(8):
            assert teacher.collect(n).score.shape == (4,)
            teacher.submit(n + 2, weak_views(n + 2), 0.0)
        turning.batcher.model.register_forward_pre_hook(lambda *_: event.wait(120) and None)
        try:
            known = {k.name: k for k in teacher._dispatcher.endpoints}
            n = 8
            while not known[turning.endpoint].overdue(1.0, time.monotonic()) or n < 16:
                assert teacher.collect(n).score.shape == (4,)
                teacher.submit(n + 2, weak_views(n + 2), 0.0)
                n += 1
                assert n < 2000
            stuck = len(known[turning.endpoint].requests)
            before = other.batcher.gauge.tiles
            for _ in range(20):
                teacher.collect(n)
                teacher.submit(n + 2, weak_views(n + 2), 0.0)
                n += 1
            assert other.batcher.gauge.tiles - before >= 4 * 19
            assert len(known[turning.endpoint].requests) == stuck, "it gets no more work"
            assert 1 <= teacher.stats.retries <= stuck
        finally:
            event.set()
        until(lambda: not known[turning.endpoint].requests)  # its late answers count for its pace only
        assert known[turning.endpoint].latency.seconds > known[other.endpoint].latency.seconds
        assert teacher.stats.tiles == 4 * n
        teacher.close()


def test_a_failure_of_a_teacher_asked_too_is_nothing():
    """Nobody asks a third time for what another teacher answers."""
    event, student = threading.Event(), tiny_net()

    def fail(*_):
        event.wait(60)
        raise RuntimeError("out of memory")

    with service() as turning, service() as other:
        teacher = remote(student, turning.endpoint, other.endpoint, patience=600.0, said=[])
        ask(teacher)
        until(lambda: turning.batcher.gauge.tiles + other.batcher.gauge.tiles == 4)
        slow, quick = (turning, other) if turning.batcher.gauge.tiles else (other, turning)
        slow.batcher.model.register_forward_pre_hook(fail)
        preferred = next(k for k in teacher._dispatcher.endpoints if k.name == quick.endpoint)
        preferred.degraded = True  # so that the first one is asked
        teacher.submit(1, weak_views(1), 0.0)
        preferred.degraded = False
        assert teacher.collect(1).score.shape == (4,)
        assert teacher.stats.retries == 1
        event.set()
        until(lambda: not any(k.requests for k in teacher._dispatcher.endpoints))
        assert ask(teacher, 2).score.shape == (4,)
        assert teacher.stats.retries == 1
        teacher.close()


def test_a_stream_has_a_deadline(monkeypatch):
    """Of a student that is gone without a word nothing is left at the service after it."""
    monkeypatch.setattr(flight_client, "STREAM_SECONDS", 0.5)
    with service() as place:
        caller = FlightClient(place.endpoint, Access(IDENTITY, TOKEN))
        writer, _ = caller.open(6, 5)
        until(lambda: place._streams)
        until(lambda: not place._streams)
        with pytest.raises(flight_client.Lost):
            writer.close()


def test_a_new_stream_is_opened_ahead_of_the_deadline(monkeypatch):
    """Streams are renewed at each hello, with requests under way and without: no request is asked again."""
    said, opened = [], []
    monkeypatch.setattr(heartbeat, "RENEW_AFTER", 0.0)
    monkeypatch.setattr(heartbeat, "HELLO_EVERY", 0.02)
    real = FlightClient.open
    monkeypatch.setattr(FlightClient, "open", lambda self, *size: opened.append(size) or real(self, *size))
    with service(said=said) as place:
        teacher = remote(tiny_net(), place.endpoint, depth=2, said=said)
        for n in range(2):
            teacher.submit(n, weak_views(n), 0.0)
        n = 0
        while len(opened) < 6:
            assert teacher.collect(n).score.shape == (4,)
            teacher.submit(n + 2, weak_views(n + 2), 0.0)
            n += 1
        for late in (n, n + 1):
            teacher.collect(late)
        until(lambda: not place._streams)  # an idle one is ended too
        assert teacher.stats.retries == 0
        assert place.status()["refused"] == {}
        teacher.close()
    assert len(said) == 1, said
