"""Threads of the student's side: one that dies is seen, an event of an earlier connection changes nothing."""

import signal
import threading
import time
from types import SimpleNamespace

import pytest

from mkd.teacher import protocol
from mkd.teacher.client.connection.events import Answer, Connected, Disconnected
from mkd.teacher.client.connection.heartbeat import Heartbeat
from mkd.teacher.client.connection.receiver import Receiver
from mkd.teacher.client.connection.sender import Sender
from mkd.teacher.client.event_handler import EventHandler
from tests.helpers.teacher.services import TeacherProcess, ask, processes, remote, service, until, weak_views
from tests.helpers.training.nets import tiny_net


def broken(*_, **__):
    raise RuntimeError("a mistake of the program")


def collect_twice(teacher):
    """Collect a submitted batch and one more: the thread may die behind the first answer."""
    teacher.collect(1)
    teacher.submit(1, weak_views(1), 0.0)
    teacher.collect(1)


@pytest.mark.parametrize(
    ("part", "method", "name"),
    [
        (Heartbeat, "_wait", "heartbeat 127.0.0.1"),
        (Sender, "_send", "sender 127.0.0.1"),
        (Receiver, "_fail", "receiver 127.0.0.1"),
        (EventHandler, "take", "dispatcher"),
    ],
)
def test_a_thread_that_dies_ends_the_wait(monkeypatch, part, method, name):
    """Whichever it is: a line in the log, the next wait raises with the cause, and closing does not hang."""
    said = []
    with service() as place:
        teacher = remote(tiny_net(), place.endpoint, said=said, patience=600.0)
        ask(teacher)
        monkeypatch.setattr(part, method, broken)
        if part is Sender:  # its errors end the connection; that it cannot report even this ends the thread
            monkeypatch.setattr("mkd.teacher.client.connection.sender.Disconnected", broken)
        if part is Receiver:
            until(lambda: place._streams)
            monkeypatch.setattr("mkd.teacher.client.connection.receiver.read_answer", broken)
        teacher.submit(1, weak_views(1), 0.0)
        if part is Heartbeat:
            until(lambda: said[1:])
        with pytest.raises(RuntimeError, match=f"the thread '{name}.*has died") as caught:
            collect_twice(teacher)
        assert "a mistake of the program" in str(caught.value.__cause__)
        teacher.close()
    assert any("has died" in s and "a mistake of the program" in s for s in said)


def test_late_events_of_an_earlier_connection_change_nothing():
    """A hello, a failure and an answer of a generation that has ended: the present one stays up and keeps its work."""
    event, said = threading.Event(), []
    with service() as place:
        teacher = remote(tiny_net(), place.endpoint, said=said)
        ask(teacher)
        dispatcher = teacher._dispatcher
        (endpoint,) = dispatcher.endpoints
        first = endpoint.channel
        dispatcher._events.put(Disconnected(0, first.generation, "a failure", in_use=True))
        until(lambda: endpoint.state == "up" and endpoint.channel is not first)
        second = endpoint.channel
        assert second.generation > first.generation
        place.batcher.model.register_forward_pre_hook(lambda *_: event.wait(60) and None)
        teacher.submit(1, weak_views(1), 0.0)
        held = dict(endpoint.requests)
        assert len(held) == 1
        failed = protocol.Reply(next(iter(held)), protocol.FAILED, "job.0", 0, 0, "late")
        late = (
            Answer(0, first.generation, failed, None, 0.0, time.monotonic()),
            Disconnected(0, first.generation, "a failure heard twice", in_use=True),
            Connected(
                0, first.generation, first, SimpleNamespace(), protocol.WeightsVersion("x.0", 9, 9), 0.0
            ),
        )
        for one in late:
            dispatcher._events.put(one)
        until(lambda: dispatcher._events.empty())
        assert endpoint.channel is second
        assert endpoint.requests == held
        assert endpoint.header.session == "job.0"
        event.set()
        assert teacher.collect(1).score.shape == (4,)
        assert teacher.stats.retries == 0
        teacher.close()
    assert not any("heard twice" in s for s in said)


def test_closing_waits_for_frozen_teachers_no_longer_than_for_one():
    """Frozen in mid-request: closing ends after the time limit of a call."""
    said = []
    with processes(TeacherProcess(), TeacherProcess()) as frozen:
        teacher = remote(tiny_net(), *(t.endpoint for t in frozen), said=said, timeout=2.0)
        for n in range(8):
            teacher.submit(n, weak_views(n, 16, (64, 64)), 0.0)
        for one in frozen:
            one.signal(signal.SIGSTOP)
        closing = threading.Thread(target=teacher.close)
        began = time.monotonic()
        closing.start()
        closing.join(60)
        assert not closing.is_alive()
        assert time.monotonic() - began < 30
