"""The two sides of a connection through the proxy, before the token was shown and after."""

import asyncio
from typing import cast

from mkd.teacher.server.http2_opening import SETTINGS_FRAME, Http2Opening, OpeningError

WRITE_BUFFER = 1 << 20  # bytes that wait for a slow reader before the other side is read no further


class Entrance(asyncio.Protocol):
    """The client's side until the token was shown; nothing is read after that until a relay has the connection.

    Args:
        opening: looks at what comes.
        authenticated: done once the token was shown, or with the error that ended the connection.

    Attributes:
        opening: see the argument.
        authenticated: see the argument.
        passed_on: whether a relay has the connection.
    """

    def __init__(self, opening: Http2Opening, authenticated: "asyncio.Future[None]") -> None:
        """Have no connection yet."""
        self.opening, self.authenticated, self.passed_on = opening, authenticated, False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send our settings."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(SETTINGS_FRAME)

    def data_received(self, data: bytes) -> None:
        """Look at what came; what a refused client still sends is dropped."""
        if self.authenticated.done():
            return
        try:
            if self.opening.feed(data):
                assert self._transport is not None
                self._transport.pause_reading()
                self.authenticated.set_result(None)
        except OpeningError as error:
            self.authenticated.set_exception(error)

    def connection_lost(self, error: Exception | None) -> None:
        """Report that the client is gone."""
        if not self.authenticated.done():
            self.authenticated.set_exception(ConnectionError(str(error or "closed by the client")))

    def hand_over(self, relay: "Relay") -> None:
        """Let a relay have the connection; it reads nothing yet."""
        assert self._transport is not None
        self.passed_on = True
        self._transport.set_protocol(relay)
        relay.connection_made(self._transport)

    def write_last(self, answer: bytes) -> None:
        """Tell the client why it is refused; it must have time to read it before the connection is aborted."""
        assert self._transport is not None
        self._transport.write(answer)

    def abort(self) -> None:
        """End the connection, where there is one."""
        if self._transport is not None:
            self._transport.abort()


class Relay(asyncio.Protocol):
    """One side of a connection that is passed on: what it reads the other side writes, no faster than it can.

    Args:
        open: the relays that have a connection; it adds itself and leaves.

    Attributes:
        other: the other side.
    """

    other: "Relay"

    def __init__(self, open: set["Relay"]) -> None:
        """Have no connection yet."""
        self._open, self._ended = open, False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self._open.add(self)

    def data_received(self, data: bytes) -> None:
        """Pass on."""
        self.other.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        """End the other side too, once what is on its way there was written."""
        self._ended = True
        self._open.discard(self)
        self.other.close()

    def pause_writing(self) -> None:
        """Let the other side read no further."""
        if self.other._transport is not None and not self.other._ended:
            self.other._transport.pause_reading()

    def resume_writing(self) -> None:
        """Let the other side read again."""
        self.other.resume()

    def write(self, data: bytes) -> None:
        """Send, unless the connection has ended."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """End the connection once all is written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()
