"""Starts, returns, stops and late comers: who has whose weights, and that nothing asked is lost."""

import copy
import threading
import time

import pytest
import torch

from mkd.semi.entropy import TileLimit
from mkd.teacher import protocol, weights
from mkd.teacher.api import TeachersGone
from mkd.teacher.local import LocalTeacher
from mkd.teacher.server import weights_intake
from tests.helpers.teacher.services import ask, equal_nets, remote, same, service, until, weak_views
from tests.helpers.training.nets import perturb, tiny_net

pytestmark = pytest.mark.usefixtures("one_thread")  # bits are compared


def test_a_late_teacher_is_used(tmp_path):
    """A teacher that starts after the student gets the newest weights and a share of the requests."""
    student, said = tiny_net(), []
    with service() as first:
        with service() as place:
            endpoint, port = place.endpoint, place.port
        teacher = remote(student, first.endpoint, endpoint, max_age=0, said=said)
        for n in range(5):
            ask(teacher, n)
            perturb(student, n)
            teacher.follow(student)
        with service(tiny_net(seed=3), port=port) as late:
            until(lambda: late.batcher.newest() == protocol.WeightsVersion("job.0", 5, 5))
            n = 5
            while late.batcher.gauge.tiles == 0:
                for ticket in (n, n + 1):
                    teacher.submit(ticket, weak_views(ticket), 0.0)
                assert [teacher.collect(ticket).version for ticket in (n, n + 1)] == [5, 5]
                n += 2
                assert n < 2000
            assert equal_nets(late.batcher.model, teacher.model)
            teacher.close()
    assert any(endpoint in s and "version 5" in s for s in said)


def test_a_restarted_student_is_served_again():
    """A new start with a lower version: its weights replace those of the run that was killed."""
    with service() as server:
        student = tiny_net()
        first = remote(student, server.endpoint, session="first")
        for n in range(3):
            perturb(student, n)
            first.follow(student)
        saved = copy.deepcopy(first.state_dict())
        for n in range(4):
            perturb(student, n)
            first.follow(student)
        until(lambda: server.batcher.newest().version == 7)
        first.close()
        second = remote(tiny_net(seed=4), server.endpoint, session="second", max_age=0)
        second.load_state_dict(saved)
        assert ask(second).version == 3
        assert server.batcher.newest() == protocol.WeightsVersion("second.1", 3, 3)
        assert equal_nets(server.batcher.model, second.model)
        second.close()


def test_back_to_a_checkpoint_within_a_run():
    """After load_state_dict the teacher has that state's weights, and no answer to an earlier question is used."""
    student = tiny_net()
    with service() as server:
        teacher = remote(student, server.endpoint, depth=2)
        saved = copy.deepcopy(teacher.state_dict())
        before = ask(teacher)
        for n in range(4):
            perturb(student, n)
            teacher.follow(student)
        for n in range(3):
            teacher.submit(n, weak_views(n), 0.0)
        teacher.load_state_dict(saved)
        again = ask(teacher)
        assert again.version == 0
        assert same(before, again)
        assert server.batcher.newest() == protocol.WeightsVersion("job.1", 0, 0)
        teacher.close()


def test_two_jobs_do_not_share_a_teacher():
    """The later job waits and stops with a sentence; the earlier one is not disturbed; when it leaves, it is free."""
    student = tiny_net()
    with service() as server:
        first = remote(student, server.endpoint, session="first", max_age=0)
        ask(first)
        for n in range(2):  # as torchrun starts a job again that has failed
            second = remote(tiny_net(seed=1), server.endpoint, session=f"second{n}", max_age=0, patience=1.0)
            with pytest.raises(TeachersGone, match=r"follows another student job \(session first, heard"):
                ask(second)
            perturb(student, n)
            first.follow(student)
            assert ask(first, n).version == n + 1
            second.close()
        first.close()
        third = remote(tiny_net(seed=1), server.endpoint, session="third", max_age=0)
        assert ask(third).version == 0
        third.close()


def test_a_job_that_died_leaves_its_teacher_to_the_next(monkeypatch):
    """Without a word of it for a while another job is served; until then it is told to wait, not refused."""
    monkeypatch.setattr(weights_intake, "SILENT", 0.5)
    with service() as server:
        first = remote(tiny_net(), server.endpoint, session="first", max_age=0)
        ask(first)
        monkeypatch.setattr(server, "_check_identity", lambda content: stopped(content["job"] == "first"))
        second = remote(tiny_net(seed=1), server.endpoint, session="second", max_age=0, said=[])
        assert ask(second).version == 0
        assert server.batcher.newest().owner == "second"
        for teacher in (first, second):
            teacher.close()


def stopped(job):
    """Let nothing of a job be heard."""
    if job:
        raise OSError("dead")


def test_one_rank_publishes():
    """Two ranks of a job with the same average: the teacher gets each version once, and answers both with it."""
    students = [tiny_net(), tiny_net()]
    with service() as server:
        uploads = []
        take = server.intake._take_over
        server.intake._take_over = lambda parcel, state: (
            uploads.append(parcel.header.version),
            take(parcel, state),
        )
        ranks = [remote(s, server.endpoint, rank=n, max_age=0) for n, s in enumerate(students)]
        versions, together = ([], []), threading.Barrier(2, timeout=60)

        def run(rank):
            for n in range(20):
                versions[rank].append(ask(ranks[rank], n).version)
                together.wait()  # ranks train in lock-step
                perturb(students[rank], n)
                ranks[rank].follow(students[rank])

        threads = [threading.Thread(target=run, args=(rank,)) for rank in (1, 0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for teacher in ranks:
            teacher.close()
    assert versions[0] == list(range(20))
    assert all(v in (n, n + 1) for n, v in enumerate(versions[1]))  # it may lag behind by the end of a step
    assert uploads == list(range(21))


def test_a_stop_answers_what_was_asked():
    """Draining: requests that were read are answered, later ones go to the other teacher; none is lost."""
    student = tiny_net()
    with service() as other, service() as server:
        server.batcher.model.register_forward_pre_hook(lambda *_: time.sleep(0.05))
        teacher = remote(student, server.endpoint, other.endpoint, said=[])
        for n in range(6):
            teacher.submit(n, weak_views(n), 0.0)
        until(lambda: server.batcher.gauge.batches > 0)
        thread = threading.Thread(target=server.drain, args=(10.0,))
        thread.start()
        for n in range(6, 12):
            teacher.submit(n, weak_views(n), 0.0)
        found = [teacher.collect(n) for n in range(12)]
        thread.join()
        local = LocalTeacher(student, 0.9, 0.4, TileLimit(absolute=1.0))
        assert all(torch.equal(a.labels, local.label(weak_views(n), 0.0).labels) for n, a in enumerate(found))
        assert teacher.stats.tiles == 48
        teacher.close()


def test_the_weights_file(tmp_path):
    """The publishing rank leaves the newest weights in a file, and the other ranks leave none."""
    student = tiny_net()
    with service() as server:
        path = tmp_path / "teacher" / "weights.safetensors"
        teacher = remote(student, server.endpoint, weights_file=path)
        other = remote(student, server.endpoint, rank=1, weights_file=tmp_path / "other")
        ask(teacher)
        until(path.is_file)
        for n in range(3):
            perturb(student, n)
            for t in (teacher, other):
                t.follow(student)
        for t in (teacher, other):
            t.close()
    state, header = weights.read_file(path, weights.layout(student))
    assert header == protocol.WeightsVersion("job.0", 3, 3)
    assert all(torch.equal(t, teacher.ema.state[n]) for n, t in state.items())
    assert [p.name for p in tmp_path.iterdir()] == ["teacher"]
