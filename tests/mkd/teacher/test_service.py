"""Student and service on Flight: equal to the local teacher to the bit, and clear about everything that differs."""

import copy
import re
import shutil
import subprocess
import threading
import time

import pyarrow as pa
import pyarrow.flight as fl
import pytest
import torch

from mkd.semi.entropy import TileLimit
from mkd.teacher import weights, wire
from mkd.teacher.calls import Access, Caller, Refused
from mkd.teacher.local import LocalTeacher
from mkd.teacher.publish import Packet
from tests.helpers.nets import perturb, tiny_net
from tests.helpers.teachers import (
    CLASSES,
    IDENTITY,
    PLAN,
    remote,
    same,
    service,
    until,
    weak_views,
)

TOKEN = "0123456789abcdef"


pytestmark = pytest.mark.usefixtures("one_thread")  # bits are compared


def ask(teacher, number=0, **more):
    teacher.submit(number, weak_views(number, **more), 0.0)
    return teacher.collect(number)


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


def equal_nets(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    return [name for (name, a), b in pairs if not torch.equal(a, b)] == []


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
    assert teacher.tally.ages == {0: 200}
    assert (teacher.tally.tiles, teacher.tally.retries, teacher.tally.stale) == (800, 0, 0)


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
        assert sum(teacher.tally.ages.values()) == 40
        assert max(teacher.tally.ages) <= 4
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
        assert teacher.tally.stale == 1
        assert max(teacher.tally.ages) <= 2
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
        assert teacher.tally.ages == {0: 9}
        assert teacher.tally.age_steps == {0: 3, 1: 3, 2: 3}
        teacher.close()
        assert server.batcher.newest() == wire.Header("job.0", 3, 9)


def test_contradictions_are_refused():
    """A depth whose answers max_age would always refuse."""
    with pytest.raises(ValueError, match=r"teacher.depth=4 .* teacher.max_age=1"):
        remote(tiny_net(), "127.0.0.1:1", depth=4, max_age=1)


OTHERS = {
    "architecture": (wire.identity({**PLAN, "backbone": "large"}, CLASSES), "backbone large .* tiny here"),
    "classes": (wire.identity(PLAN, (*CLASSES, "sea")), r"classes 4 .*sea.* 3 \(grass, road, water\) here"),
    "normalisation": (wire.identity({**PLAN, "mean": (0, 0, 0)}, CLASSES), r"mean \[0, 0, 0\] .*\[0.5, "),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_network_is_refused_with_both_values(what):
    """At the start of the student, and on every call of a client that skips the greeting."""
    identity, text = OTHERS[what]
    said = []
    with service(say=said.append) as server:
        with pytest.raises(ValueError, match=text):
            remote(tiny_net(), server.endpoint, identity=identity)
        caller = Caller(server.endpoint, Access(identity, None))
        assert re.search(text, push(server.endpoint, [], identity=identity))
        header = wire.Header("job.0", 0, 0)
        blob = weights.to_bytes(dict(tiny_net().state_dict()), header)
        with pytest.raises(Refused, match=text):
            caller.publish(Packet(header, blob, weights.digest(blob)), takes=True)
    assert len(said) == 3, "once for each kind of call"


def test_weights_of_another_network_are_refused():
    """Weights whose tensors do not fit leave the teacher's own in place."""
    header = wire.Header("job.0", 1, 1)
    with service() as server:
        blob = weights.to_bytes(dict(tiny_net(classes=4).state_dict()), header)
        with pytest.raises(Refused, match="2 tensors differ"):
            Caller(server.endpoint, Access(IDENTITY, None)).publish(
                Packet(header, blob, weights.digest(blob)), True
            )
        assert server.batcher.newest().session == ""


@pytest.mark.parametrize("token", [None, "x" * 16, TOKEN + "0"])
def test_a_wrong_token_is_refused(token):
    """On every kind of call, once in the log; the right token goes on being served."""
    said = []
    with service(token=TOKEN, say=said.append) as server:
        good = remote(tiny_net(), server.endpoint, token=TOKEN, said=[])
        with pytest.raises(ValueError, match="token is missing or wrong"):
            remote(tiny_net(), server.endpoint, token=token)
        caller = Caller(server.endpoint, Access(IDENTITY, token))
        with pytest.raises(Refused, match="token"):
            caller.status()
        with pytest.raises(fl.FlightUnauthenticatedError):
            caller.open(6, 5)[1].read_chunk()
        with pytest.raises(Refused, match="token"):
            caller.publish(Packet(wire.Header("a", 0, 0), b"x", "y"), True)
        assert ask(good).score.shape == (4,)
        good.close()
    assert len([s for s in said if "token" in s]) == 1


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
            until(lambda: late.batcher.newest() == wire.Header("job.0", 5, 5))
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
        assert server.batcher.newest() == wire.Header("second.1", 3, 3)
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
        assert server.batcher.newest() == wire.Header("job.1", 0, 0)
        teacher.close()


def test_two_jobs_do_not_share_a_teacher():
    """The later job takes the teacher over; the earlier one stops with a sentence instead of fighting for it."""
    student = tiny_net()
    with service() as server:
        first = remote(student, server.endpoint, session="first", max_age=0)
        ask(first)
        second = remote(tiny_net(seed=1), server.endpoint, session="second", max_age=0)
        ask(second)
        perturb(student, 0)
        first.follow(student)
        with pytest.raises(ValueError, match="follows another student job"):
            ask(first, 1)
        assert ask(second, 1).version == 0
        for teacher in (first, second):
            teacher.close()


def test_one_rank_publishes():
    """Two ranks of a job with the same average: the teacher gets each version once, and answers both with it."""
    students = [tiny_net(), tiny_net()]
    with service() as server:
        uploads = []
        take = server._take_over
        server._take_over = lambda parcel, state: (uploads.append(parcel.header.version), take(parcel, state))
        ranks = [remote(s, server.endpoint, publishes=n == 0, max_age=0) for n, s in enumerate(students)]
        versions = ([], [])

        def run(rank):
            for n in range(20):
                versions[rank].append(ask(ranks[rank], n).version)
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
    assert all(
        n <= v for n, v in enumerate(versions[1])
    )  # nothing keeps these ranks in step: it may lag behind
    assert uploads == list(range(21))


def test_too_many_or_too_large_tiles():
    """A batch that the teacher does not take ends with the sizes and what to do."""
    with service(max_batch=3, max_tile=64) as server:
        for more in ({"batch": 4}, {"batch": 1, "size": (65, 8)}):
            teacher = remote(tiny_net(), server.endpoint)
            with pytest.raises(ValueError, match="max_batch=3 of max_tile=64"):
                ask(teacher, **more)
            assert ask(teacher, 1, batch=3).score.shape == (3,)
            teacher.close()


def test_tile_sizes_may_change():
    """Each tile size has a stream of its own; answers keep their shapes."""
    with service() as server:
        teacher = remote(tiny_net(), server.endpoint)
        for n, size in enumerate([(6, 5), (8, 8), (6, 5), (64, 1)]):
            assert ask(teacher, n, size=size).labels.shape == (4, *size)
        assert len(server._streams) == 3
        teacher.close()
        until(lambda: not server._streams)


def push(endpoint, chunks, schema=None, identity=IDENTITY):
    """Send raw chunks (batch or None, metadata) as a client would; return the error that ends the stream."""
    client = fl.connect(f"grpc://{endpoint}")
    command = wire.pack({"protocol": wire.PROTOCOL, "identity": identity})
    writer, reader = client.do_exchange(fl.FlightDescriptor.for_command(command))
    with pytest.raises(fl.FlightError) as caught:  # noqa: PT012
        writer.begin(schema or wire.image_schema(6, 5))
        for batch, note in chunks:
            if batch is None:
                writer.write_metadata(note)
            else:
                writer.write_with_metadata(batch, note)
        writer.done_writing()
        while True:
            reader.read_chunk()
    with pytest.raises(fl.FlightError):
        writer.close()
    return str(caught.value)


def batch_of(rows):
    images = weak_views(batch=rows)
    schema = wire.image_schema(6, 5)
    return pa.record_batch([wire.tensor_column(images, schema.field(0).type)], schema=schema)


GOOD = wire.pack(wire.Ask(0, 0.4, 1.0, "job.0", 0))


@pytest.mark.parametrize(
    ("chunks", "text"),
    [
        ([(batch_of(17), GOOD)], "17 rows"),
        ([(batch_of(4).slice(0, 0), GOOD)], "0 rows"),
        ([(None, GOOD)], "without data"),
        ([(batch_of(4), b"{")], "no JSON"),
        ([(batch_of(4), b"x" * (wire.MAX_JSON + 1))], f"{wire.MAX_JSON + 1} bytes"),
        ([(batch_of(4), GOOD.replace(b"0.4", b"1.4"))], "confidence=1.4"),
    ],
)
def test_malformed_requests_end_their_stream_only(chunks, text):
    """The sender gets the reason, the log one line, and a student beside it sees nothing of it."""
    said = []
    with service(say=said.append) as server:
        teacher = remote(tiny_net(), server.endpoint, said=[])
        ask(teacher)
        for _ in range(3):
            assert text in push(server.endpoint, chunks)
        assert ask(teacher, 1).score.shape == (4,)
        assert teacher.tally.retries == 0
        assert server.status()["refused"] == {"requests": 3}
        teacher.close()
    assert len(said) == 1


def test_malformed_openings():
    """A stream of another schema, or of tiles beyond max_tile, is refused before its first request."""
    with service(say=lambda text: None) as server:
        assert "one column" in push(server.endpoint, [], pa.schema([("images", pa.uint8())]))
        assert "max_tile=64" in push(server.endpoint, [], wire.image_schema(65, 65))
        assert "another network" in push(server.endpoint, [], identity="tiny")


def upload(endpoint, blob, **change):
    """Publish with a changed announcement."""
    header = wire.Header("job.0", 1, 1)
    content = {"header": vars(header), "bytes": len(blob), "sha256": weights.digest(blob), "takes": True}
    command = wire.pack({**content, "protocol": wire.PROTOCOL, "identity": IDENTITY, **change})
    client = fl.connect(f"grpc://{endpoint}")
    writer, answers = client.do_put(fl.FlightDescriptor.for_command(command), wire.WEIGHTS_SCHEMA)
    column = pa.Array.from_buffers(pa.uint8(), len(blob), [None, pa.py_buffer(blob)])
    writer.write_batch(pa.record_batch([column], schema=wire.WEIGHTS_SCHEMA))
    writer.done_writing()
    found = answers.read()
    writer.close()
    return found


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"bytes": 10**9}, "bytes=1000000000"),
        ({"bytes": 10}, "rows"),
        ({"bytes": -1}, "bytes=-1"),
        ({"sha256": "0" * 64}, "not the"),
        ({"takes": 1}, "takes"),
        ({"header": None}, "header"),
        ({"header": {"session": "job.0", "version": 2, "updates": 1}}, "header is not"),
        ({"protocol": 2}, "protocol 2 at the student, 1 here"),
    ],
)
def test_malformed_weights_are_refused(change, text):
    """Announced too large, sent too long, damaged, mislabelled: nothing is taken over, and the service lives."""
    header = wire.Header("job.0", 1, 1)
    blob = weights.to_bytes(dict(tiny_net().state_dict()), header)
    with service(say=lambda text: None) as server:
        with pytest.raises(fl.FlightError, match=text):
            upload(server.endpoint, blob, **change)
        assert server.batcher.newest().session == ""
        assert upload(server.endpoint, blob) is not None
        assert server.batcher.newest() == header


def test_status():
    """Version, queue, rate, latency, clients and refusals, by the call that people's tools make."""
    with service(say=lambda text: None) as server:
        teacher = remote(tiny_net(), server.endpoint)
        for n in range(5):
            ask(teacher, n)
        push(server.endpoint, [(None, GOOD)])
        found = Caller(server.endpoint, Access(None, None)).status()
        assert (found["session"], found["version"], found["tiles"], found["clients"]) == ("job.0", 0, 20, 1)
        assert found["tiles_per_s"] > 0
        assert 0 < found["latency_ms_p50"] <= found["latency_ms_p99"]
        assert found["refused"] == {"requests": 1}
        teacher.close()


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
        assert teacher.tally.tiles == 48
        teacher.close()


def test_the_weights_file(tmp_path):
    """The publishing rank leaves the newest weights in a file, and the other ranks leave none."""
    student = tiny_net()
    with service() as server:
        path = tmp_path / "teacher" / "weights.safetensors"
        teacher = remote(student, server.endpoint, weights_file=path)
        other = remote(student, server.endpoint, publishes=False, weights_file=tmp_path / "other")
        ask(teacher)
        until(path.is_file)
        for n in range(3):
            perturb(student, n)
            for t in (teacher, other):
                t.follow(student)
        for t in (teacher, other):
            t.close()
    state, header = weights.read_file(path, weights.layout(student))
    assert header == wire.Header("job.0", 3, 3)
    assert all(torch.equal(t, teacher.ema.state[n]) for n, t in state.items())
    assert [p.name for p in tmp_path.iterdir()] == ["teacher"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="a certificate is made with openssl")
def test_tls(tmp_path):
    """With a certificate the same things work; a client without it, or that does not trust it, gets nowhere."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    subprocess.run([*command, "-keyout", key, "-out", cert, *subject], check=True, stderr=subprocess.DEVNULL)
    with service(tls=(cert.read_bytes(), key.read_bytes()), token=TOKEN) as server:
        teacher = remote(tiny_net(), server.endpoint, tls=cert.read_bytes(), token=TOKEN, max_age=0)
        assert ask(teacher).version == 0
        teacher.close()
        with pytest.raises(OSError, match="cannot be reached"):
            Caller(server.endpoint, Access(None, TOKEN, timeout=1.0)).status()
