"""The memory that streams share: bounded, and nobody is kept out for ever."""

import contextlib
import threading

import pytest

from mkd.teacher.client.flight_client import Access, FlightClient, Lost
from mkd.teacher.server import service as server_module
from mkd.teacher.server.memory_budget import MemoryBudget
from tests.helpers.teacher.services import IDENTITY, TOKEN, remote, service, until, weak_views
from tests.helpers.training.nets import tiny_net


def test_who_finds_it_full_waits_unless_alone():
    """Up to the limit; a stream without another request enters all the same; memory that is left is given on."""
    budget = MemoryBudget(10)
    assert budget.enter(6, lambda: False, 0)
    assert not budget.enter(5, lambda: False, 0.01)
    assert budget.held == 6
    assert budget.enter(5, lambda: True, 0)
    entered = threading.Event()
    thread = threading.Thread(target=lambda: budget.enter(5, lambda: False, 60) and entered.set())
    thread.start()
    assert not entered.is_set()
    budget.leave(6)
    thread.join(20)
    assert entered.is_set()
    assert budget.held == 10


def test_streams_share_a_bound(monkeypatch):
    """With memory for two requests and five students that ask for six each: never more than two and one of each."""
    size, held = weak_views().nbytes, []
    monkeypatch.setattr(server_module, "MOST_BYTES", 2 * size)
    enter = MemoryBudget.enter

    def record(self, *given, **more):
        done = enter(self, *given, **more)
        held.append(self.held)
        return done

    monkeypatch.setattr(MemoryBudget, "enter", record)
    with service() as place:
        students = [remote(tiny_net(), place.endpoint, rank=n, said=[]) for n in range(5)]
        for n in range(6):
            for teacher in students:
                teacher.submit(n, weak_views(n), 0.0)
        for teacher in students:
            assert all(teacher.collect(n).score.shape == (4,) for n in range(6))
            assert teacher.stats.retries == 0
        until(lambda: place._memory.held == 0)
        for teacher in students:
            teacher.close()
    assert size < max(held) <= (2 + 5) * size


def test_students_that_do_not_read_keep_nobody_out(monkeypatch):
    """The budget is full of requests whose answers nobody takes; another student is served."""
    monkeypatch.setattr(server_module, "MOST_BYTES", 1)
    event = threading.Event()
    monkeypatch.setattr(server_module.AnswerStream, "_message", held_back(event))
    with service() as place:
        try:
            lazy = remote(tiny_net(), place.endpoint, session="lazy", said=[])
            for n in range(3):
                lazy.submit(n, weak_views(n, 2), 0.0)
            until(lambda: place._memory.held > 0)
            other = remote(tiny_net(), place.endpoint, session="lazy", rank=1, said=[])
            for n in range(3):
                other.submit(n, weak_views(n), 0.0)
                assert other.collect(n).score.shape == (4,)
            other.close()
        finally:
            event.set()
        lazy.close()


def held_back(event):
    """Hold back the answers to requests of two tiles until the event."""
    real = server_module.AnswerStream._message

    def message(self, item):
        found = real(self, item)
        if found[1] is not None and found[1].num_rows == 2:
            event.wait(60)
        return found

    return message


@pytest.mark.parametrize("count", [300])
def test_hundreds_of_streams(count):
    """One service has a stream for each of more ranks than 32 nodes of 8 GPUs have."""
    assert server_module.MOST_STREAMS >= 4096
    with service() as place:
        caller = FlightClient(place.endpoint, Access(IDENTITY, TOKEN))
        streams = [caller.open(6, 5) for _ in range(count)]
        until(lambda: len(place._streams) == count)
        for writer, reader in streams:
            reader.cancel()
            with contextlib.suppress(*Lost):
                writer.close()
        until(lambda: not place._streams)
