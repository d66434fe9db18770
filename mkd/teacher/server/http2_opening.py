"""The first bytes of a client's HTTP/2 connection: read by us, in bounded memory, until they show the token.

Source: RFC 9113 (frames, sections 3.4 and 6) and RFC 7541 (header compression, by the library hpack).
"""

import hmac
from typing import NamedTuple

import hpack

from mkd.teacher.auth import WRONG_TOKEN

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS_FRAME = b"\0\0\0\4\0\0\0\0\0"  # ours, empty: a gRPC client waits for one before its first call
LONGEST_FRAME = 1 << 14  # bytes; RFC 9113 allows no more before we say otherwise
MOST_BEFORE_TOKEN = 1 << 15  # bytes
# A client may send its window of 65535 bytes after its token and before it acknowledges our settings.
MOST_BYTES = 1 << 18
LARGEST_HEADERS = 1 << 14  # bytes when decompressed
DATA, HEADERS, PRIORITY, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 4, 6, 7, 8, 9
ACK, END_STREAM, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 32
UNAUTHENTICATED = "16"  # gRPC's status


class OpeningError(ValueError):
    """A connection that is refused.

    Args:
        text: for people; nothing of it comes from the client.
        answer: bytes that tell the client so, where it speaks HTTP/2.
    """

    def __init__(self, text: str, answer: bytes = b"") -> None:
        """Keep the answer."""
        super().__init__(text)
        self.answer = answer


class Frame(NamedTuple):
    """One HTTP/2 frame."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class Http2Opening:
    """Reads a connection until its first call has shown the token; does no input or output itself.

    Args:
        token: the shared token.

    Attributes:
        passed: what came, for the service behind; without the acknowledgement of `SETTINGS_FRAME`, which that one
            has not sent.
    """

    def __init__(self, token: str) -> None:
        """Expect the preface."""
        self._wanted = f"Bearer {token}".encode()
        self._rest = b""  # of what came, not looked at yet
        self._begun = self._acknowledged = self._authenticated = False
        self._block: tuple[int, bytes] | None = None  # stream and header block that go on in the next frame
        self.passed = bytearray()

    @property
    def started(self) -> bool:
        """Whether anything came."""
        return bool(self._rest or self._begun)

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; return whether the connection may go on to the service.

        Raises:
            OpeningError: it may not.
        """
        self._rest += data
        if not self._begun:
            if not PREFACE.startswith(self._rest[: len(PREFACE)]):
                raise OpeningError(
                    "it does not speak HTTP/2 without TLS, as gRPC does; is TLS on one side only?"
                )
            if len(self._rest) < len(PREFACE):
                return False
            self._begun = True
            self._pass(len(PREFACE))
        while (frame := self._next_frame()) is not None:
            self._take(frame)
        if self._acknowledged and self._authenticated:
            self._pass(len(self._rest))
            return True
        most = MOST_BYTES if self._authenticated else MOST_BEFORE_TOKEN
        if len(self.passed) + len(self._rest) > most:
            raise OpeningError(f"more than {most} bytes before it {self._missing()}")
        return False

    def _missing(self) -> str:
        return "acknowledged the settings" if self._authenticated else "showed the token"

    def _pass(self, size: int) -> None:
        self.passed += self._rest[:size]
        self._rest = self._rest[size:]

    def _next_frame(self) -> Frame | None:
        """Return the next frame once it is there; an acknowledgement of our settings is not passed on."""
        if self._acknowledged and self._authenticated or len(self._rest) < 9:
            return None
        size = int.from_bytes(self._rest[:3], "big")
        if size > LONGEST_FRAME:
            raise OpeningError(f"an HTTP/2 frame of {size} bytes; {LONGEST_FRAME} are allowed")
        if len(self._rest) < 9 + size:
            return None
        kind, flags = self._rest[3], self._rest[4]
        stream = int.from_bytes(self._rest[5:9], "big") & 0x7FFFFFFF
        frame = Frame(kind, flags, stream, self._rest[9 : 9 + size])
        if kind == SETTINGS and flags & ACK and not self._acknowledged:
            self._acknowledged, self._rest = True, self._rest[9 + size :]
        else:
            self._pass(9 + size)
        return frame

    def _take(self, frame: Frame) -> None:
        """Look at one frame: before the token a call's headers are wanted, and nothing that belongs to a call."""
        if self._authenticated:
            return
        if (frame.kind == CONTINUATION) != (self._block is not None):
            raise OpeningError("HTTP/2 headers that are not continued, or a continuation of none")
        if self._block is not None:
            stream, block = self._block
            if frame.stream != stream:
                raise OpeningError("HTTP/2 headers that another call continues")
            self._read_headers(frame, block + frame.payload)
        elif frame.kind == HEADERS:
            self._read_headers(frame, _header_block(frame))
        elif frame.kind not in (SETTINGS, WINDOW_UPDATE, PING, PRIORITY):
            raise OpeningError(f"an HTTP/2 frame of type {frame.kind} before a call")

    def _read_headers(self, frame: Frame, block: bytes) -> None:
        """Compare the token once all headers are there."""
        if not frame.flags & END_HEADERS:
            self._block = frame.stream, block
            return
        self._block = None
        try:
            headers = hpack.Decoder(max_header_list_size=LARGEST_HEADERS).decode(block, raw=True)
        except hpack.HPACKError as error:
            raise OpeningError(f"HTTP/2 headers that cannot be read ({type(error).__name__})") from None
        given = [value for name, value in headers if name == b"authorization"]
        if len(given) != 1 or not hmac.compare_digest(given[0], self._wanted):
            raise OpeningError(WRONG_TOKEN, _unauthenticated(frame.stream, WRONG_TOKEN))
        self._authenticated = True


def _header_block(frame: Frame) -> bytes:
    """Return the header block of a HEADERS frame, without padding and priority."""
    block, padding = frame.payload, 0
    if frame.flags & PADDED:
        padding, block = (block[0] if block else 0), block[1:]
    if frame.flags & WITH_PRIORITY:
        block = block[5:]
    if padding > len(block):
        raise OpeningError("HTTP/2 headers with more padding than content")
    return block[: len(block) - padding]


def _unauthenticated(stream: int, text: str) -> bytes:
    """Return frames that end a call with gRPC's status for a wrong token, and then the connection."""
    status = [("grpc-status", UNAUTHENTICATED), ("grpc-message", text)]
    headers = hpack.Encoder().encode([(":status", "200"), ("content-type", "application/grpc"), *status])
    goaway = stream.to_bytes(4, "big") + bytes(4)
    return _frame(HEADERS, END_HEADERS | END_STREAM, stream, headers) + _frame(GOAWAY, 0, 0, goaway)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
