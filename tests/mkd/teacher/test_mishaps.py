"""Things that break inside a student or a service: somebody says so, and nobody waits for ever."""

import threading
from types import SimpleNamespace

import pytest

from mkd.semi.entropy import TileLimit
from mkd.teacher import protocol, weights
from mkd.teacher.api import TeachersGone
from mkd.teacher.client import publisher
from mkd.teacher.client.connection import receiver, sender
from mkd.teacher.client.flight_client import Access, FlightClient
from mkd.teacher.client.publisher import Packet
from mkd.teacher.local import LocalTeacher
from mkd.teacher.server import answer_stream
from mkd.teacher.server import service as service_module
from mkd.teacher.server.batcher import QueuedRequest
from tests.helpers.teacher.services import (
    IDENTITY,
    TOKEN,
    ask,
    batcher_of,
    remote,
    same,
    service,
    until,
    weak_views,
)
from tests.helpers.training.nets import perturb, tiny_net

pytestmark = pytest.mark.usefixtures("one_thread")  # bits are compared


def broken(*_):
    raise RuntimeError("out of memory")


def stuck_service(event, **more):
    """Serve with a network that labels nothing before the event."""
    model = tiny_net()
    model.register_forward_pre_hook(lambda *_: event.wait() and None)
    return service(model, **more)


def once(monkeypatch, module, name):
    """Let a function of a module fail at its first call."""
    real, calls = getattr(module, name), []

    def fail_once(*given):
        calls.append(given)
        return broken() if len(calls) == 1 else real(*given)

    monkeypatch.setattr(module, name, fail_once)
    return calls


def ours():
    """Return the threads of Python's making; the library's own come and go."""
    return {t for t in threading.enumerate() if not isinstance(t, threading._DummyThread)}


@pytest.mark.parametrize("max_age", [0, 4])
def test_weights_that_cannot_be_packed_end_the_student(monkeypatch, max_age):
    """The publisher's error comes out of the next call, whether it waits for weights or for labels."""
    with service() as place:
        teacher = remote(tiny_net(), place.endpoint, max_age=max_age)
        monkeypatch.setattr(publisher.weights, "to_bytes", broken)
        with pytest.raises(RuntimeError, match="could not be packed") as caught:
            ask(teacher)
        assert "out of memory" in str(caught.value.__cause__)
        teacher.close()


def test_a_request_that_cannot_be_made_is_made_again(monkeypatch):
    """An error on the sender's way that is none of the network's ends the connection, not the thread."""
    student, said = tiny_net(), []
    with service() as place:
        calls = once(monkeypatch, sender.protocol, "image_schema")
        teacher = remote(student, place.endpoint, max_age=0, said=said)
        local = LocalTeacher(student, 0.9, 0.4, TileLimit(absolute=1.0))
        assert same(ask(teacher), local.label(weak_views(), 0.0))
        assert len(calls) > 1
        assert teacher.stats.retries == 1
        teacher.close()
    assert any("RuntimeError: out of memory" in s for s in said)


def test_an_answer_that_cannot_be_read_is_asked_again(monkeypatch):
    """The same on the receiver's way."""
    said = []
    with service() as place:
        once(monkeypatch, receiver, "read_answer")
        teacher = remote(tiny_net(), place.endpoint, said=said)
        assert ask(teacher).score.shape == (4,)
        assert teacher.stats.retries == 1
        teacher.close()
    assert any("RuntimeError: out of memory" in s for s in said)


def test_a_hello_that_goes_wrong_is_repeated(monkeypatch):
    """The same on the heartbeat's way."""
    said = []
    with service() as place:
        once(monkeypatch, FlightClient, "hello")
        teacher = remote(tiny_net(), place.endpoint, said=said)
        assert ask(teacher).score.shape == (4,)
        teacher.close()
    assert "out of memory" in said[0]


def test_an_answer_that_cannot_be_written_is_a_failure(monkeypatch):
    """The service says so on the stream, which goes on; the student asks again."""
    with service() as place:
        once(monkeypatch, answer_stream, "kept_share")
        teacher = remote(tiny_net(), place.endpoint)
        assert ask(teacher).score.shape == (4,)
        assert teacher.stats.retries == 1
        assert len(place._streams) == 1
        teacher.close()


def test_a_stuck_teacher_is_left_for_another():
    """It answers hellos but has worked on one batch for longer than patience: its requests go to the other one."""
    event, said = threading.Event(), []
    with service() as good, stuck_service(event) as stuck:
        try:
            teacher = remote(tiny_net(), stuck.endpoint, good.endpoint, patience=1.0, said=said)
            assert ask(teacher).score.shape == (4,)
            assert teacher.stats.retries == 1
            assert all(ask(teacher, n).score.shape == (4,) for n in range(1, 5))
            assert good.batcher.gauge.tiles == 20
            teacher.close()
        finally:
            event.set()
    assert len([s for s in said if "worked on one batch for more than 1 s" in s]) == 1


def test_all_teachers_stuck_is_no_teacher():
    """The student ends with the reason, as without any."""
    event = threading.Event()
    with stuck_service(event) as stuck:
        try:
            teacher = remote(tiny_net(), stuck.endpoint, patience=1.0, said=[])
            with pytest.raises(TeachersGone, match="worked on one batch"):
                ask(teacher)
            teacher.close()
        finally:
            event.set()


def test_a_teacher_that_stops_gets_no_weights_and_is_not_waited_for():
    """At max_age=0 the next step goes on with the other teacher while the first still answers."""
    student = tiny_net()
    with service() as other, service() as first:
        teacher = remote(student, first.endpoint, other.endpoint, max_age=0)
        ask(teacher)
        first.batcher.stopping.set()
        until(lambda: all(k.stopping == (k.name == first.endpoint) for k in teacher._dispatcher.endpoints))
        perturb(student, 0)
        teacher.follow(student)
        assert first.batcher.newest().version == 0
        assert other.batcher.newest().version == 1
        assert ask(teacher, 1).version == 1
        teacher.close()


def test_a_request_that_comes_after_the_last_look_is_answered():
    """A reader that saw the service run and put its request when nobody took any: stopping, not silence."""
    batcher = batcher_of()
    batcher.stopping.set()
    batcher.start()
    batcher.join()
    batcher.stopping = SimpleNamespace(is_set=lambda: False)  # as the reader saw it
    job = QueuedRequest(protocol.Request(1, 0.4, 1.0, "", 0), weak_views(), object())
    batcher.put(job)
    assert job.done.is_set()
    assert job.reply.status == protocol.STOPPING


def test_a_batcher_that_dies_answers_what_is_queued(monkeypatch):
    """Whatever killed it; the service ends then."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    batcher = batcher_of()
    batcher._swap = broken
    job = QueuedRequest(protocol.Request(1, 0.4, 1.0, "", 0), weak_views(), object())
    late = QueuedRequest(protocol.Request(2, 0.4, 1.0, "", 0), weak_views(), object())
    batcher._take = lambda timeout: None
    batcher._queue.put(job)
    batcher.start()
    batcher.join()
    batcher.put(late)
    assert job.reply.status == late.reply.status == protocol.STOPPING


def test_a_service_that_is_busy_refuses_nobody_for_good(monkeypatch):
    """Too many uploads or streams now: the student tries again, and its run does not end."""
    monkeypatch.setattr(service_module, "MOST_STREAMS", 1)
    with service() as place:
        place.intake.uploads.acquire()
        place.intake.uploads.acquire()
        header = protocol.WeightsVersion("job.0", 0, 0)
        blob = weights.to_bytes(dict(tiny_net().state_dict()), header)
        caller = FlightClient(place.endpoint, Access(IDENTITY, TOKEN))
        with pytest.raises(OSError, match="2 uploads of weights are under way"):
            caller.publish(Packet(header, blob, weights.digest(blob)))
        teacher = remote(tiny_net(), place.endpoint, said=[])
        teacher.submit(0, weak_views(), 0.0)
        until(lambda: place.status()["refused"].get("weights", 0) >= 3)
        place.intake.uploads.release()
        assert teacher.collect(0).score.shape == (4,)
        second = remote(tiny_net(), place.endpoint, session="job", rank=1, said=[])
        second.submit(0, weak_views(), 0.0)
        until(lambda: "requests" in place.status()["refused"])
        teacher.close()
        assert second.collect(0).score.shape == (4,)
        second.close()
        place.intake.uploads.release()


def test_hanging_up_in_the_middle_of_everything():
    """Students that leave with requests under way leave nothing behind: no stream, no thread, no request."""
    event = threading.Event()
    before = ours()
    with stuck_service(event, max_batch=4) as place:  # one request a batch, so that others wait
        students = [remote(tiny_net(), place.endpoint, session=f"job{n}") for n in range(3)]
        for teacher in students:
            for n in range(4):
                teacher.submit(n, weak_views(n), 0.0)
        until(lambda: place.batcher.waiting() > 0)
        for teacher in students:
            teacher.close()
        event.set()
        until(lambda: not place._streams)
        until(lambda: place.batcher.waiting() == 0)
        assert place.batcher.is_alive()
    until(lambda: ours() <= before)
