"""What who has no token costs a service: real processes, a real gRPC client, and raw HTTP/2."""

import time

import grpc
import pytest

from tests.helpers.teacher.services import TOKEN, TeacherProcess, ask, processes, remote, until
from tests.helpers.teacher.stranger import (
    FLIGHT,
    PREFACE,
    UNARY,
    answer,
    connect,
    data_frames,
    frame,
    gzip_bomb,
    header_block,
    memory,
    message,
    opening,
    reset_peak,
)
from tests.helpers.training.nets import tiny_net

CALLS = 100
MOST = 64  # MiB that all these calls may cost
BOMB = gzip_bomb(256)
OTHERS = "x" * len(TOKEN)


@pytest.fixture(scope="module")
def teacher():
    """A service in a process of its own."""
    with processes(TeacherProcess()) as (one,):
        yield one


def still_serves(teacher):
    """Ask as a student who has the token."""
    student = remote(tiny_net(), teacher.endpoint, timeout=20.0, patience=60.0)
    found = ask(student).score.shape == (4,)
    student.close()
    return found


def test_compressed_unary_calls_of_a_grpc_client(teacher):
    """A hundred at once of each kind that gRPC reads before it looks at headers, some of 64 MiB when inflated."""
    before, ends = reset_peak(teacher.process.pid), []
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    channels = [grpc.insecure_channel(teacher.endpoint, options=options) for _ in range(CALLS)]
    calls = [
        channel.unary_stream(FLIGHT + UNARY[n % len(UNARY)])(
            bytes((64 if n < len(UNARY) else 1) << 20), compression=grpc.Compression.Gzip, timeout=60
        )
        for n, channel in enumerate(channels)
    ]
    for call, channel in zip(calls, channels, strict=True):
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        ends.append(caught.value.code())
        channel.close()
    assert memory(teacher.process.pid) - before < MOST
    # Cut off in the middle of what it sends, a client may see the end of the connection before the reason.
    assert set(ends) <= {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE}
    assert still_serves(teacher)


RAW = {
    "a gzip bomb": opening(header_block(grpc_encoding="gzip")) + data_frames(message(BOMB, 1)),
    "a gzip bomb, another's token": opening(
        header_block("ListFlights", grpc_encoding="gzip", authorization=f"Bearer {OTHERS}")
    )
    + data_frames(message(BOMB, 1)),
    "a length of 2 GiB": opening(header_block()) + data_frames(message(bytes(1 << 16), 0, (1 << 31) - 1)),
    "data before headers": PREFACE + data_frames(bytes(1 << 20)),
    "a frame of 16 MiB": PREFACE + frame(0, 0, 1, bytes((1 << 24) - 1)),
    "settings for ever": PREFACE + frame(4, 0, 0, bytes(6 * 2000)) * 200,
    "pings for ever": PREFACE + frame(6, 0, 0, bytes(8)) * 100_000,
    "headers without end": PREFACE + frame(1, 0, 1, bytes([0x10, 1, 97, 1, 98]) * 3000) * 3,
    "continuations without end": PREFACE + frame(1, 0, 1, b"") + frame(9, 0, 1, b"") * 100_000,
    "headers that inflate": PREFACE + frame(1, 4, 1, b"\x40\x01a\x7f\x81\x1e" + b"b" * 4000 + b"\xbe" * 12_000),
    "noise": bytes(range(256)) * 4096,
    "TLS": b"\x16\x03\x01\x02\x00" + bytes(1 << 20),
}  # fmt: skip


@pytest.mark.parametrize("what", RAW)
def test_raw_bytes(teacher, what):
    """Twenty of each kind at once, left open until the service ends them: it does, and holds next to nothing."""
    before = reset_peak(teacher.process.pid)
    sockets = [connect(teacher.endpoint, RAW[what]) for _ in range(20)]
    began = time.monotonic()
    for one in sockets:
        answer(one)
        one.close()
    assert time.monotonic() - began < 20, "they are ended at once, not by a time limit"
    assert memory(teacher.process.pid) - before < MOST


def test_half_open_connections(teacher):
    """A thousand that say nothing or stop in the middle keep nobody out, cost little, and most are given up."""
    before = reset_peak(teacher.process.pid)
    starts = [b"", PREFACE[:10], PREFACE, PREFACE + frame(4, 0, 0, b""), opening(header_block(), end=0)]
    sockets = [connect(teacher.endpoint, starts[n % len(starts)]) for n in range(1000)]
    assert still_serves(teacher)
    assert memory(teacher.process.pid) - before < MOST
    closed = 0
    for one in sockets:
        one.settimeout(0.001)
        try:
            while part := one.recv(65536):
                pass
            closed += not part
        except ConnectionError:
            closed += 1
        except TimeoutError:
            continue
    assert closed >= 1000 - 128
    for one in sockets:
        one.close()
    until(lambda: still_serves(teacher))
