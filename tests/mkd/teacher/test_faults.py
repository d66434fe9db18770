"""Teachers that die, freeze, come back or never come: no answer is lost, none is wrong, and people are told."""

import signal
import socket
import threading
import time

import pytest
import torch

from mkd.semi.entropy import TileLimit
from mkd.teacher.api import TeachersGone
from mkd.teacher.client.flight_client import FlightClient
from mkd.teacher.local import LocalTeacher
from tests.helpers.teacher.services import (
    TeacherProcess,
    ask,
    free_port,
    processes,
    remote,
    same,
    service,
    until,
    weak_views,
)
from tests.helpers.training.nets import perturb, tiny_net

pytestmark = pytest.mark.usefixtures("one_thread")  # bits are compared


def beside(student):
    return LocalTeacher(student, 0.9, 0.4, TileLimit(absolute=1.0))


def run(teacher, local, student, steps, at=None, first=0):
    """Ask and follow; each answer must be the local teacher's. `at(step)` happens while an answer is awaited."""
    for n in range(first, first + steps):
        teacher.submit(n, weak_views(n), 0.0)
        if at is not None:
            at(n)
        answer, other = teacher.collect(n), local.label(weak_views(n), 0.0)
        assert same(answer, other)
        assert answer.version == other.version
        perturb(student, n)
        teacher.follow(student)
        local.follow(student)


def test_killed_in_mid_answer_and_restarted():
    """Kill -9 while a request is labelled, with no other teacher: the restarted one gets weights and request again."""
    student, said = tiny_net(), []
    first = TeacherProcess(seed=3, delay=0.3)
    alive = [first]

    def kill(step):
        if step == 2:
            time.sleep(0.1)  # it is labelling now
            first.kill()
            alive.append(TeacherProcess(first.port, seed=4, wait=False))

    with processes(first):
        teacher = remote(student, first.endpoint, max_age=0, patience=120.0, said=said)
        run(teacher, beside(student), student, 6, kill)
        assert teacher.stats.tiles == 24
        assert teacher.stats.retries == 1
        assert teacher.stats.local == 0
        teacher.close()
    with processes(*alive[1:]):
        assert len(alive) == 2
    assert any("cannot be reached" in s for s in said)
    assert "answers, with version 2 of the weights" in said[-1]


def test_frozen_and_killed_with_another_at_hand():
    """A teacher that is stopped in its tracks is left within the time limit, a killed one at once; work goes on."""
    student, said = tiny_net(), []
    with processes(TeacherProcess(seed=3, delay=0.05)) as (far,), service(tiny_net(seed=5)) as near:
        teacher = remote(student, far.endpoint, near.endpoint, depth=2, said=said)
        local = beside(student)

        def four(first):
            for n in range(first, first + 4):
                teacher.submit(n, weak_views(n), 0.0)
            for n in range(first, first + 4):
                found, wanted = teacher.collect(n), local.label(weak_views(n), 0.0)
                assert torch.equal(found.labels, wanted.labels)
                # Requests of a teacher that is lost share a batch at the other one, whose sums round otherwise.
                torch.testing.assert_close(found.score, wanted.score, rtol=1e-6, atol=0)

        four(0)
        assert near.batcher.gauge.tiles < 16, "the far teacher must have work too"
        far.signal(signal.SIGSTOP)
        four(4)
        until(lambda: any("does not answer in time" in s for s in said))
        four(8)
        far.signal(signal.SIGCONT)
        until(lambda: len([s for s in said if far.endpoint in s and "answers" in s]) == 2)
        far.kill()
        four(12)
        assert teacher.stats.tiles == 64
        teacher.close()


def test_frozen_while_a_large_request_is_sent():
    """A freeze that blocks the sender in the middle of its bytes is left like any other."""
    student, said = tiny_net(), []
    with processes(TeacherProcess()) as (far,):
        teacher = remote(student, far.endpoint, patience=120.0, said=said)
        run(teacher, beside(student), student, 1)
        far.signal(signal.SIGSTOP)
        views = weak_views(0, 16, (64, 64))
        for n in range(40):
            teacher.submit(n, views, 0.0)
        until(lambda: any("does not answer in time" in s for s in said))
        far.signal(signal.SIGCONT)
        for n in range(40):
            assert teacher.collect(n).labels.shape == (16, 64, 64)
        assert teacher.stats.retries > 0
        teacher.close()


def test_a_silent_port_is_no_teacher():
    """Something that accepts connections and says nothing is not waited for at the start."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        said = []
        with service() as server:
            teacher = remote(tiny_net(), f"127.0.0.1:{mute.getsockname()[1]}", server.endpoint, said=said)
            teacher.submit(0, weak_views(0), 0.0)
            assert teacher.collect(0).score.shape == (4,)
            teacher.close()


def test_nobody_is_there():
    """Students wait with a clear line, up to the limit, and then stop with a sentence."""
    said, student = [], tiny_net()
    endpoint = f"127.0.0.1:{free_port()}"
    teacher = remote(student, endpoint, patience=2.5, said=said)
    teacher.submit(0, weak_views(0), 0.0)
    with pytest.raises(TeachersGone, match=rf"no teacher for \d+ s \({endpoint}: .*teacher.fallback=local"):
        teacher.collect(0)
    assert (
        len([s for s in said if s.startswith(f"waiting for a teacher ({endpoint}: it cannot be reached")])
        == 1
    )
    teacher.submit(1, weak_views(1), 0.0)
    with service(port=int(endpoint.rpartition(":")[2])):
        assert teacher.collect(1).version == 0  # it is not too late
        teacher.close()


def test_fallback_to_the_local_teacher_and_back():
    """With fallback=local the student goes on with its own average, equal to a local run, until a teacher is back."""
    said, student = [], tiny_net()
    local, port = beside(student), free_port()
    teacher = remote(student, f"127.0.0.1:{port}", patience=0.3, fallback=True, max_age=0, said=said)
    run(teacher, local, student, 5)
    assert teacher.stats.local == 5
    assert len([s for s in said if "going on with the local one" in s]) == 1
    with service(tiny_net(seed=9), port=port) as server:
        until(lambda: any("answers" in s for s in said))
        until(lambda: server.batcher.newest().version == 5)
        run(teacher, local, student, 5, first=5)
        assert teacher.stats.local == 5
        assert server.batcher.gauge.tiles == 20
        teacher.close()


def test_the_faster_teacher_gets_more():
    """Load goes where it is done first."""
    student = tiny_net()
    with service() as fast, service() as slow:
        slow.batcher.model.register_forward_pre_hook(lambda *_: time.sleep(0.1))
        teacher = remote(student, slow.endpoint, fast.endpoint)
        for n in range(3):
            teacher.submit(n, weak_views(n), 0.0)
        for n in range(60):
            teacher.collect(n)
            if n < 57:
                teacher.submit(n + 3, weak_views(n + 3), 0.0)
        assert fast.batcher.gauge.tiles > 3 * slow.batcher.gauge.tiles > 0
        assert fast.batcher.gauge.tiles + slow.batcher.gauge.tiles == 240
        teacher.close()


def test_a_failing_teacher_is_left():
    """A teacher whose network fails says why; another one does its work; without another the reason is shown."""
    student = tiny_net()

    def fail(*_):
        raise RuntimeError("out of memory")

    with service() as bad:
        bad.batcher.model.register_forward_pre_hook(fail)
        with service() as good:
            teacher = remote(student, bad.endpoint, good.endpoint)
            for n in range(6):
                teacher.submit(n, weak_views(n), 0.0)
            assert all(teacher.collect(n).score.shape == (4,) for n in range(6))
            teacher.close()
        alone = remote(student, bad.endpoint, patience=1.0)
        alone.submit(0, weak_views(0), 0.0)
        with pytest.raises(TeachersGone, match="out of memory"):
            alone.collect(0)
        alone.close()


def test_memory_of_a_slow_teacher_is_bounded():
    """A teacher that labels nothing takes no more requests from the wire than its queues hold."""
    student = tiny_net()
    with service(max_batch=4, depth=4) as server:
        server.batcher.model.register_forward_pre_hook(lambda *_: time.sleep(0.02))
        teacher = remote(student, server.endpoint)
        for n in range(100):
            teacher.submit(n, weak_views(n), 0.0)
        waiting = []
        for n in range(100):
            teacher.collect(n)
            waiting.append(server.batcher.waiting())
        teacher.close()
    assert 0 < max(waiting) <= 5


@pytest.mark.parametrize("there", [False, True])
def test_a_wish_to_stop_ends_the_wait(there):
    """Whether nobody is there or a teacher works at the answer: not after patience, but at once."""
    wished, event = threading.Event(), threading.Event()
    with service() as server:
        server.batcher.model.register_forward_pre_hook(lambda *_: event.wait(60) and None)
        endpoint = server.endpoint if there else f"127.0.0.1:{free_port()}"
        teacher = remote(tiny_net(), endpoint, patience=600.0, said=[], stop=wished.is_set)
        teacher.submit(0, weak_views(0), 0.0)
        threading.Timer(0.2, wished.set).start()
        with pytest.raises(TeachersGone, match="asked to stop while waiting"):
            teacher.collect(0)
        event.set()
        teacher.close()


def test_a_wish_to_stop_ends_the_wait_for_weights(monkeypatch):
    """At max_age=0 a step ends though a teacher does not take its weights: requests name the version they need."""
    wished, event = threading.Event(), threading.Event()
    monkeypatch.setattr(FlightClient, "publish", lambda self, packet: event.wait(60) and packet.header)
    student = tiny_net()
    with service() as server:
        teacher = remote(student, server.endpoint, max_age=0, patience=600.0, said=[], stop=wished.is_set)
        threading.Timer(0.2, wished.set).start()
        teacher.follow(student)
        event.set()
        teacher.close()


def test_teachers_that_all_refuse_are_waited_for():
    """In the middle of a run, as for teachers that are away: up to patience, and then as if nobody was there."""
    student, said, token = tiny_net(), [], "another-one-0123"
    with service() as server:
        endpoint, port = server.endpoint, server.port
        teacher = remote(student, endpoint, patience=2.5, said=said)
        ask(teacher)
    with service(port=port, token=token):
        until(lambda: any("refuses: the token" in s for s in said))
        with pytest.raises(TeachersGone, match="no teacher for .* it refuses: the token is missing"):
            ask(teacher, 1)
    teacher.submit(2, weak_views(2), 0.0)
    with service(port=port):
        assert teacher.collect(2).score.shape == (4,)
        teacher.close()
