"""Student and service on Flight: equal to the local teacher to the bit, ahead of the step, never too old."""

import copy
import io
import threading
from collections import Counter

import pytest
import torch

from mkd.semi.entropy import TileLimit
from mkd.teacher import protocol, weights
from mkd.teacher.api import TeachersGone
from mkd.teacher.client.connection.heartbeat import Hurry
from mkd.teacher.client.flight_client import Access, FlightClient
from mkd.teacher.client.publisher import Packet
from mkd.teacher.local import LocalTeacher
from tests.helpers.teacher.services import (
    IDENTITY,
    TOKEN,
    ask,
    equal_nets,
    remote,
    same,
    service,
    until,
    weak_views,
)
from tests.helpers.training.nets import perturb, tiny_net

pytestmark = pytest.mark.usefixtures("one_thread")  # bits are compared


def trained(teacher, student, steps, first=0):
    """Train on the teacher's labels for some steps; return the last answer and the number of accepted tiles."""
    accepted = 0
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    for step in range(first, first + steps):
        images = weak_views(step)
        teacher.submit(step, images, step / 200)
        answer = teacher.collect(step)
        accepted += int(answer.accepted.sum())
        torch.manual_seed(step)
        loss = torch.nn.functional.cross_entropy(
            student(images.float() / 255), answer.labels.long(), ignore_index=255, reduction="sum"
        )
        (loss / 100).backward()
        optimizer.step()
        optimizer.zero_grad()
        teacher.follow(student)
    return answer, accepted


def test_a_service_equals_the_local_teacher():
    """200 steps at max_age=0 and sync_every=1: same answers, same student, same average and same tile filter."""
    limits = [TileLimit(drop_start=0.5, drop_end=0.1, window=30) for _ in range(2)]
    students = [tiny_net(), tiny_net()]
    start = copy.deepcopy(students[0])
    local = LocalTeacher(students[0], 0.9, 0.4, limits[0])
    with service(tiny_net(seed=5)) as server:
        teacher = remote(students[1], server.endpoint, limit=limits[1], max_age=0)
        for part in range(4):
            (one, count), (two, other) = (
                trained(t, s, 50, 50 * part) for t, s in zip((local, teacher), students, strict=True)
            )
            assert 0 < count == other < 200, "the case must accept and reject tiles"
            assert same(one, two)
            assert one.version == two.version == 50 * part + 49
        teacher.close()
        assert server.batcher.gauge.swaps in (200, 201)  # the last weights may not have been taken up yet
    assert teacher.depth == 0
    assert not equal_nets(start, students[1]), "the case must train"
    assert equal_nets(students[0], students[1])
    assert equal_nets(local.model, teacher.model)
    assert limits[0].state_dict() == limits[1].state_dict()
    assert teacher.stats.ages == {0: 200}
    assert (teacher.stats.tiles, teacher.stats.retries, teacher.stats.stale) == (800, 0, 0)


def test_ahead_of_the_step():
    """With depth 3 answers come for each ticket in order, from weights of at most max_age versions before."""
    student = tiny_net()
    with service() as server:
        teacher = remote(student, server.endpoint, depth=3, max_age=4)
        for n in range(3):
            teacher.submit(n, weak_views(n), 0.0)
        for n in range(40):
            version = teacher.version
            answer = teacher.collect(n)
            assert answer.score.shape == (4,)
            assert version - 4 <= answer.version <= version
            perturb(student, n, 0.01)
            teacher.follow(student)
            teacher.submit(n + 3, weak_views(n + 3), 0.0)
        assert sum(teacher.stats.ages.values()) == 40
        assert max(teacher.stats.ages) <= 4
        teacher.close()


def test_an_old_answer_is_refused_and_asked_again():
    """An answer that lay there while the weights moved on is not used at its age; the new one is young enough."""
    student = tiny_net()
    with service() as server:
        teacher = remote(student, server.endpoint, depth=1, max_age=2)
        teacher.submit(0, weak_views(0), 0.0)
        until(lambda: server.batcher.gauge.batches == 1)
        for n in range(5):
            perturb(student, n)
            teacher.follow(student)
        assert teacher.collect(0).version >= 3
        assert teacher.stats.stale == 1
        assert max(teacher.stats.ages) <= 2
        teacher.close()


def test_sync_every(tmp_path):
    """Weights are published every third step; versions count publications, ages in steps count updates."""
    student = tiny_net()
    with service() as server:
        teacher = remote(student, server.endpoint, sync_every=3, max_age=0)
        versions = []
        for n in range(9):
            versions.append(ask(teacher, n).version)
            perturb(student, n)
            teacher.follow(student)
        assert versions == [0, 0, 0, 3, 3, 3, 6, 6, 6]
        assert teacher.stats.ages == {0: 9}
        assert teacher.stats.age_steps == {0: 3, 1: 3, 2: 3}
        teacher.close()
        assert server.batcher.newest() == protocol.WeightsVersion("job.0", 3, 9)


@pytest.mark.parametrize("steps", [3, 6, 7, 8])
def test_a_resume_between_two_versions_is_exact(steps):
    """A run gone on from a checkpoint is answered by what the whole run had published, to the bit, and goes on so."""
    student = tiny_net()
    with service() as one, service() as other:
        whole = remote(student, one.endpoint, sync_every=3, max_age=0)
        for n in range(steps):
            perturb(student, n, 0.3)
            whole.follow(student)
            ask(whole, n)
        buffer = io.BytesIO()
        torch.save(whole.state_dict(), buffer)
        buffer.seek(0)
        saved, second = torch.load(buffer, weights_only=True), copy.deepcopy(student)
        assert ("published" in saved) == (steps % 3 > 0)
        again = remote(tiny_net(seed=8), other.endpoint, sync_every=3, max_age=0, session="again")
        again.load_state_dict(saved)
        for n in range(steps, steps + 4):
            answers = [ask(t, n) for t in (whole, again)]
            assert same(*answers)
            assert answers[0].version == answers[1].version == n - n % 3
            for teacher, net in ((whole, student), (again, second)):
                perturb(net, n, 0.3)
                teacher.follow(net)
        assert again.stats.age_steps == Counter(n % 3 for n in range(steps, steps + 4))
        for teacher in (whole, again):
            teacher.close()


def test_weights_from_the_future_do_not_answer():
    """A teacher that has a version which the student cannot have published yet is none; one step ahead is a rank's."""
    student = tiny_net()
    with service() as server:
        teacher = remote(student, server.endpoint, patience=0.5, said=[])
        ask(teacher)
        (endpoint,) = teacher._dispatcher.endpoints
        for version, counts in ((1, True), (2, False), (10**6, False)):
            header = protocol.WeightsVersion("job.0", version, version)
            blob = weights.to_bytes(dict(tiny_net(seed=9).state_dict()), header)
            FlightClient(server.endpoint, Access(IDENTITY, TOKEN)).publish(
                Packet(header, blob, weights.digest(blob))
            )
            endpoint.connection.hurry(Hurry.NOW)
            until(lambda: endpoint.header == server.batcher.newest())
            if counts:
                assert ask(teacher, version).version == 1
            else:
                with pytest.raises(TeachersGone, match=f"has version {version} .* version 0 to 1 of job.0"):
                    ask(teacher, version)
        assert not teacher._dispatcher.may_answer(protocol.Reply(1, protocol.OK, "job.0", 2, 2), "job.0")
        teacher.close()


def test_contradictions_are_refused():
    """A depth whose answers max_age would always refuse."""
    with pytest.raises(ValueError, match=r"teacher.depth=4 .* teacher.max_age=1"):
        remote(tiny_net(), "127.0.0.1:1", depth=4, max_age=1)


def test_too_many_or_too_large_tiles():
    """A batch that the teacher does not take ends with the sizes and what to do."""
    with service(max_batch=3, max_tile=64) as server:
        for more in ({"batch": 4}, {"batch": 1, "size": (65, 8)}):
            teacher = remote(tiny_net(), server.endpoint)
            with pytest.raises(ValueError, match="max_batch=3 of max_tile=64"):
                ask(teacher, **more)
            assert ask(teacher, 1, batch=3).score.shape == (3,)
            teacher.close()


def test_a_larger_teacher_that_restarts_is_waited_for():
    """While the one that takes the batch is away, the run does not end because the other one is too small."""
    with service(max_batch=3) as small:
        with service(max_batch=4) as large:
            teacher = remote(tiny_net(), small.endpoint, large.endpoint, said=(said := []))
            assert ask(teacher, batch=4).score.shape == (4,)
        teacher.submit(1, weak_views(1), 0.0)
        away = until_thread(lambda: any("takes max_batch=3 of max_tile=64" in s for s in said), large.port)
        assert teacher.collect(1).score.shape == (4,)
        teacher.close()
        away.set()


def until_thread(condition, port):
    """Serve on a port, from another thread, once a condition holds and until the returned event."""
    end = threading.Event()

    def serve():
        until(condition)
        with service(max_batch=4, port=port):
            end.wait(60)

    threading.Thread(target=serve, daemon=True).start()
    return end


def test_tile_sizes_may_change():
    """Each tile size has a stream of its own; answers keep their shapes."""
    with service() as server:
        teacher = remote(tiny_net(), server.endpoint)
        for n, size in enumerate([(6, 5), (8, 8), (6, 5), (64, 1)]):
            assert ask(teacher, n, size=size).labels.shape == (4, *size)
        assert len(server._streams) == 3
        teacher.close()
        until(lambda: not server._streams)


def test_the_tile_filter_learns_from_all_ranks():
    """`gather` gets this rank's scores once a batch; the filter remembers what it returns, in that order."""
    limit, seen = TileLimit(drop_start=0.5), []

    def gather(score):
        seen.append(score)
        return torch.cat([score, 1 - score])

    with service() as server:
        teacher = remote(tiny_net(), server.endpoint, limit=limit, gather=gather)
        answers = [ask(teacher, n) for n in range(2)]
        teacher.close()
    assert all(torch.equal(a.score, s) for a, s in zip(answers, seen, strict=True))
    expected = [float(v) for a in answers for v in [*a.score, *(1 - a.score)]]
    assert limit.state_dict()["scores"] == expected


def test_ranks_prefer_different_teachers():
    """Where several would be done at the same time, rank r takes the r-th, so that ranks do not all ask one."""
    student = tiny_net()
    with service() as a, service() as b, service() as c:
        services = [a, b, c]
        endpoints = [s.endpoint for s in services]
        for rank in range(4):
            before = [s.batcher.gauge.tiles for s in services]
            teacher = remote(student, *endpoints, rank=rank)  # rank 0 has brought all of them the weights
            ask(teacher)
            given = [s.batcher.gauge.tiles - n for s, n in zip(services, before, strict=True)]
            assert given == [4 * (n == rank % 3) for n in range(3)]
            if rank:
                teacher.close()
            else:
                first = teacher
        first.close()
