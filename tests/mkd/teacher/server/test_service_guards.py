"""What a service refuses: other networks, wrong tokens, malformed messages; and what it tells about itself."""

import re
import shutil
import subprocess

import pyarrow as pa
import pyarrow.flight as fl
import pytest

from mkd.teacher import protocol, weights
from mkd.teacher.auth import call_headers
from mkd.teacher.client.flight_client import Access, FlightClient, Refused
from mkd.teacher.client.publisher import Packet
from tests.helpers.teacher.services import (
    CLASSES,
    IDENTITY,
    PLAN,
    TOKEN,
    ask,
    free_port,
    remote,
    service,
    weak_views,
)
from tests.helpers.training.nets import tiny_net

WITH_TOKEN = fl.FlightCallOptions(headers=call_headers(TOKEN))


def push(endpoint, chunks, schema=None, identity=IDENTITY):
    """Send raw chunks (batch or None, metadata) as a client would; return the error that ends the stream."""
    client = fl.connect(f"grpc://{endpoint}")
    command = protocol.pack({"protocol": protocol.PROTOCOL, "identity": identity})
    writer, reader = client.do_exchange(fl.FlightDescriptor.for_command(command), WITH_TOKEN)
    with pytest.raises(fl.FlightError) as caught:  # noqa: PT012
        writer.begin(schema or protocol.image_schema(6, 5))
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
    schema = protocol.image_schema(6, 5)
    return pa.record_batch([protocol.tensor_column(images, schema.field(0).type)], schema=schema)


GOOD = protocol.pack(protocol.Request(0, 0.4, 1.0, "job.0", 0))


def upload(endpoint, blob, **change):
    """Publish with a changed announcement."""
    header = protocol.WeightsVersion("job.0", 1, 1)
    content = {"header": vars(header), "bytes": len(blob), "sha256": weights.digest(blob)}
    command = protocol.pack({**content, "protocol": protocol.PROTOCOL, "identity": IDENTITY, **change})
    client = fl.connect(f"grpc://{endpoint}")
    descriptor = fl.FlightDescriptor.for_command(command)
    writer, answers = client.do_put(descriptor, protocol.WEIGHTS_SCHEMA, WITH_TOKEN)
    column = pa.Array.from_buffers(pa.uint8(), len(blob), [None, pa.py_buffer(blob)])
    writer.write_batch(pa.record_batch([column], schema=protocol.WEIGHTS_SCHEMA))
    writer.done_writing()
    found = answers.read()
    writer.close()
    return found


OTHERS = {
    "architecture": (
        protocol.identity({**PLAN, "backbone": "large"}, CLASSES),
        "backbone large .* tiny here",
    ),
    "classes": (
        protocol.identity(PLAN, (*CLASSES, "sea")),
        r"classes 4 .*sea.* 3 \(grass, road, water\) here",
    ),
    "normalisation": (protocol.identity({**PLAN, "mean": (0, 0, 0)}, CLASSES), r"mean \[0, 0, 0\] .*\[0.5, "),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_network_is_refused_with_both_values(what):
    """At the start of the student, and on every call of a client that skips the hello."""
    identity, text = OTHERS[what]
    said = []
    with service(said=said) as server:
        with pytest.raises(ValueError, match=text):
            remote(tiny_net(), server.endpoint, identity=identity)
        caller = FlightClient(server.endpoint, Access(identity, TOKEN))
        assert re.search(text, push(server.endpoint, [], identity=identity))
        header = protocol.WeightsVersion("job.0", 0, 0)
        blob = weights.to_bytes(dict(tiny_net().state_dict()), header)
        with pytest.raises(Refused, match=text):
            caller.publish(Packet(header, blob, weights.digest(blob)))
    assert len(said) == 3, "once for each kind of call"


def test_weights_of_another_network_are_refused():
    """Weights whose tensors do not fit leave the teacher's own in place."""
    header = protocol.WeightsVersion("job.0", 1, 1)
    with service() as server:
        blob = weights.to_bytes(dict(tiny_net(classes=4).state_dict()), header)
        with pytest.raises(Refused, match="2 tensors differ"):
            FlightClient(server.endpoint, Access(IDENTITY, TOKEN)).publish(
                Packet(header, blob, weights.digest(blob))
            )
        assert server.batcher.newest().session == ""


@pytest.mark.parametrize("token", [None, "x" * 16, TOKEN + "0"])
def test_a_wrong_token_is_refused(token):
    """On every kind of call, once in the log; the right token goes on being served."""
    said = []
    with service(token=TOKEN, said=said) as server:
        good = remote(tiny_net(), server.endpoint, token=TOKEN, said=[])
        with pytest.raises(ValueError, match="token is missing or wrong"):
            remote(tiny_net(), server.endpoint, token=token)
        caller = FlightClient(server.endpoint, Access(IDENTITY, token))
        with pytest.raises(Refused, match="token"):
            caller.status()
        with pytest.raises(fl.FlightUnauthenticatedError):
            caller.open(6, 5)[1].read_chunk()
        with pytest.raises(Refused, match="token"):
            caller.publish(Packet(protocol.WeightsVersion("a", 0, 0), b"x", "y"))
        assert ask(good).score.shape == (4,)
        good.close()
    assert len([s for s in said if "token" in s]) == 1


@pytest.mark.parametrize(
    ("chunks", "text"),
    [
        ([(batch_of(17), GOOD)], "17 rows"),
        ([(batch_of(4).slice(0, 0), GOOD)], "0 rows"),
        ([(None, GOOD)], "without data"),
        ([(batch_of(4), b"{")], "no JSON"),
        ([(batch_of(4), b"x" * (protocol.MAX_JSON + 1))], f"{protocol.MAX_JSON + 1} bytes"),
        ([(batch_of(4), GOOD.replace(b"0.4", b"1.4"))], "confidence=1.4"),
    ],
)
def test_malformed_requests_end_their_stream_only(chunks, text):
    """The sender gets the reason, the log one line, and a student beside it sees nothing of it."""
    said = []
    with service(said=said) as server:
        teacher = remote(tiny_net(), server.endpoint, said=[])
        ask(teacher)
        for _ in range(3):
            assert text in push(server.endpoint, chunks)
        assert ask(teacher, 1).score.shape == (4,)
        assert teacher.stats.retries == 0
        assert server.status()["refused"] == {"requests": 3}
        teacher.close()
    assert len(said) == 1


def test_what_nobody_thought_of_ends_its_call_only(monkeypatch):
    """An error that is no message's fault is counted and said once; the sender sees nothing of the inside."""
    said = []
    with service(said=said) as server:
        monkeypatch.setattr(server, "_check_identity", lambda content: 1 / 0)
        for _ in range(2):
            with pytest.raises(OSError, match="^the message cannot be read$"):
                FlightClient(server.endpoint, Access(IDENTITY, TOKEN)).hello()
        assert server.status()["refused"] == {"damaged action": 2}
    assert len([s for s in said if "ZeroDivisionError" in s]) == 1


def test_malformed_openings():
    """A stream of another schema, or of tiles beyond max_tile, is refused before its first request."""
    with service() as server:
        assert "one column" in push(server.endpoint, [], pa.schema([("images", pa.uint8())]))
        assert "max_tile=64" in push(server.endpoint, [], protocol.image_schema(65, 65))
        assert "another network" in push(server.endpoint, [], identity="tiny")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"bytes": 10**9}, "bytes=1000000000"),
        ({"bytes": 10}, "rows"),
        ({"bytes": -1}, "bytes=-1"),
        ({"sha256": "0" * 64}, "not the"),
        ({"header": None}, "header"),
        ({"header": {"session": "job.0", "version": 2, "updates": 1}}, "header is not"),
        ({"protocol": 1}, "protocol 1 at the student, 2 here"),
    ],
)
def test_malformed_weights_are_refused(change, text):
    """Announced too large, sent too long, damaged, mislabelled: nothing is taken over, and the service lives."""
    header = protocol.WeightsVersion("job.0", 1, 1)
    blob = weights.to_bytes(dict(tiny_net().state_dict()), header)
    with service() as server:
        with pytest.raises(fl.FlightError, match=text):
            upload(server.endpoint, blob, **change)
        assert server.batcher.newest().session == ""
        assert upload(server.endpoint, blob) is not None
        assert server.batcher.newest() == header


def test_status():
    """Version, queue, rate, latency, clients and refusals, by the call that people's tools make."""
    with service() as server:
        teacher = remote(tiny_net(), server.endpoint)
        for n in range(5):
            ask(teacher, n)
        push(server.endpoint, [(None, GOOD)])
        found = FlightClient(server.endpoint, Access(None, TOKEN)).status()
        assert (found["session"], found["version"], found["tiles"], found["clients"]) == ("job.0", 0, 20, 1)
        assert found["tiles_per_s"] > 0
        assert 0 < found["latency_ms_p50"] <= found["latency_ms_p99"]
        assert found["refused"] == {"requests": 1}
        teacher.close()


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
        with pytest.raises(OSError, match=r"cannot be reached \(TLS on one side only"):
            FlightClient(server.endpoint, Access(None, TOKEN, timeout=1.0)).status()
    with service() as plain, pytest.raises(OSError, match=r"cannot be reached \(TLS on one side only"):
        FlightClient(plain.endpoint, Access(None, TOKEN, cert.read_bytes(), timeout=1.0)).status()
    with pytest.raises(OSError, match=r"cannot be reached$"):  # nobody is there
        FlightClient(f"127.0.0.1:{free_port()}", Access(None, TOKEN)).status()
