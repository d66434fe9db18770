"""The first bytes of a connection: whole or in pieces, the token decides, and memory is bounded."""

import contextlib

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mkd.teacher.auth import WRONG_TOKEN
from mkd.teacher.server.http2_opening import MOST_BEFORE_TOKEN, MOST_BYTES, Http2Opening, OpeningError
from tests.helpers.teacher.services import TOKEN
from tests.helpers.teacher.stranger import PREFACE, SETTINGS_ACK, frame, header_block, opening

GOOD = header_block(authorization=f"Bearer {TOKEN}")
SETTINGS = frame(4, 0, 0, b"")


def feed(raw, size):
    """Feed bytes in pieces; return the opening once it is passed, with what was not fed yet."""
    one = Http2Opening(TOKEN)
    for n in range(0, len(raw), size):
        if one.feed(raw[n : n + size]):
            return one, raw[n + size :]
    return one, None


HEADERS = {
    "at once": frame(1, 4, 1, GOOD),
    "in three frames": frame(1, 0, 1, GOOD[:5]) + frame(9, 0, 1, GOOD[5:20]) + frame(9, 4, 1, GOOD[20:]),
    "padded": frame(1, 4 | 8, 1, b"\3" + GOOD + bytes(3)),
    "with a priority": frame(1, 4 | 32, 1, bytes(5) + GOOD),
    "padded, with a priority": frame(1, 4 | 8 | 32, 1, b"\1" + bytes(5) + GOOD + bytes(1)),
    "as Huffman": frame(1, 4, 7, hpack.Encoder().encode({"authorization": f"Bearer {TOKEN}"}, huffman=True)),
    "plain": frame(1, 4, 1, hpack.Encoder().encode({"authorization": f"Bearer {TOKEN}"}, huffman=False)),
}


@pytest.mark.parametrize("size", [1, 7, 10**6])
@pytest.mark.parametrize("what", HEADERS)
@pytest.mark.parametrize("first", [True, False])
def test_the_token_opens(what, size, first):
    """In every form of headers, in pieces of any size; all is passed on but one acknowledgement, ours."""
    data = frame(0, 1, 1, b"message")
    one, two = (SETTINGS_ACK, HEADERS[what]) if first else (HEADERS[what], SETTINGS_ACK)
    found, rest = feed(PREFACE + SETTINGS + one + two + data, size)
    assert rest is not None
    assert bytes(found.passed) + rest == PREFACE + SETTINGS + HEADERS[what] + data


WRONG = [
    {},
    {"authorization": ""},
    {"authorization": TOKEN},
    {"authorization": f"Bearer {TOKEN}0"},
    {"authorization": f"Bearer {TOKEN[:-1]}"},
    {"authorization": f"bearer {TOKEN}"},
    {"authorization": f"Bearer {'x' * 8000}"},
]


@pytest.mark.parametrize("headers", WRONG)
def test_a_wrong_token_is_answered(headers):
    """With gRPC's status 16 and a sentence on the call's own stream; nothing of the client's is in the error."""
    with pytest.raises(OpeningError) as caught:
        Http2Opening(TOKEN).feed(opening(header_block(**headers)))
    assert str(caught.value) == WRONG_TOKEN
    kind, flags, stream = caught.value.answer[3], caught.value.answer[4], caught.value.answer[5:9]
    assert (kind, flags, stream) == (1, 5, b"\0\0\0\1")
    size = int.from_bytes(caught.value.answer[:3], "big")
    told = dict(hpack.Decoder().decode(caught.value.answer[9 : 9 + size]))
    assert (told[":status"], told["grpc-status"], told["grpc-message"]) == ("200", "16", WRONG_TOKEN)


def test_two_tokens_are_none():
    """A header that is there twice could be read as either."""
    block = hpack.Encoder().encode([("authorization", f"Bearer {TOKEN}")] * 2)
    with pytest.raises(OpeningError, match="missing or wrong"):
        Http2Opening(TOKEN).feed(opening(block))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"GET / HTTP/1.1\r\n", "does not speak HTTP/2"),
        (b"\x16\x03\x01", "TLS on one side only"),
        (PREFACE + frame(0, 0, 1, b"x"), "type 0 before a call"),
        (PREFACE + frame(3, 0, 1, bytes(4)), "type 3 before a call"),
        (PREFACE + frame(4, 0, 0, bytes(1 << 14) + b"x"), "frame of 16385 bytes"),
        (PREFACE + b"\xff\xff\xff\0\0\0\0\0\1", "frame of 16777215 bytes"),
        (PREFACE + SETTINGS * 4000, "bytes before it showed the token"),
        (PREFACE + frame(9, 4, 1, GOOD), "a continuation of none"),
        (PREFACE + frame(1, 0, 1, GOOD) + SETTINGS, "not continued"),
        (PREFACE + frame(1, 0, 1, GOOD) + frame(9, 4, 3, b""), "another call continues"),
        (PREFACE + frame(1, 4, 1, b"\xff" * 40), "cannot be read"),
        (PREFACE + frame(1, 4, 1, b"\x40\x01a\x7f\x81\x1e" + b"b" * 4000 + b"\xbe" * 9000), "cannot be read"),
        (PREFACE + frame(1, 4 | 8, 1, b"\xff" + GOOD), "more padding"),
        (PREFACE + frame(1, 4 | 8, 1, b""), "missing or wrong"),
        (PREFACE + frame(1, 4, 1, GOOD) + frame(0, 0, 1, bytes(16000)) * 20, "acknowledged the settings"),
    ],
)
def test_what_is_refused(raw, text):
    """At once, whole or byte by byte, and with less in memory than its bound."""
    for size in (len(raw), 1000):
        one = Http2Opening(TOKEN)
        with pytest.raises(OpeningError, match=text):  # noqa: PT012
            for n in range(0, len(raw), size):
                one.feed(raw[n : n + size])
        assert size == len(raw) or len(one.passed) <= MOST_BYTES


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10), st.integers(0, 255), st.integers(0, 3), st.binary(max_size=60)))
)
def test_noise_is_refused_or_waited_for(frames):
    """Whatever frames come without the token: never passed on, never another error, never much in memory."""
    one = Http2Opening(TOKEN)
    with contextlib.suppress(OpeningError):
        assert not one.feed(PREFACE + b"".join(frame(*each) for each in frames))
    assert len(one.passed) <= MOST_BEFORE_TOKEN
