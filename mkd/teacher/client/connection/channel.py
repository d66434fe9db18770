"""One connection to one endpoint, from the first hello to the first failure: its client and its request streams."""

import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from mkd.teacher.client.flight_client import FlightClient, Lost

Size = tuple[int, int]


@dataclass(eq=False)
class RequestStream:
    """An open stream of requests of one tile size.

    Attributes:
        size: (H, W) of its tiles.
        writer: Flight's; only the sender uses it.
        reader: Flight's; only the stream's receiver reads it.
        opened: when, monotonic seconds.
        sent: tiles of each request without an answer by its id: the sender adds before it writes, the receiver removes.
        retired: it gets no more requests; the sender sets this before it tells the teacher.
        ended: its last answer was read; the receiver sets this.
    """

    size: Size
    writer: Any
    reader: Any
    opened: float = field(default_factory=time.monotonic)
    sent: dict[int, int] = field(default_factory=dict)
    retired: bool = False
    ended: bool = False

    def close(self) -> None:
        """Close the writer, from the sender's thread; unclosed, the library would complain on stderr."""
        with contextlib.suppress(*Lost):
            self.writer.close()


class Channel:
    """The resources of one generation of a connection; a failure ends it, and the next generation has its own.

    Args:
        client: makes the calls.
        generation: counts the connections to this endpoint from 1.
    """

    def __init__(self, client: FlightClient, generation: int) -> None:
        """Open no stream yet."""
        self.client, self.generation, self.cancelled = client, generation, False
        # The sender opens and closes streams, the dispatcher cancels them. Either holds the lock for no call that
        # waits for the teacher, so neither waits for a frozen one here.
        self._lock = threading.Lock()
        self._streams: list[RequestStream] = []

    def stream(self, size: Size) -> RequestStream | None:
        """Return the stream that takes requests of this tile size (H, W), if it is open."""
        return next((s for s in self._streams if s.size == size and not s.retired), None)

    def open(self, size: Size) -> RequestStream:
        """Open a stream of this tile size (H, W).

        Raises:
            OSError: the channel was cancelled.
        """
        opened = RequestStream(size, *self.client.open(*size))
        with self._lock:
            self._streams.append(opened)
            if not self.cancelled:
                return opened
        opened.reader.cancel()
        raise OSError("the connection is gone")

    def retire(self, before: float) -> None:
        """Tell the teacher that streams opened before a time, monotonic seconds, get no more requests."""
        for stream in self._streams:
            if not stream.retired and stream.opened < before:
                stream.retired = True
                stream.writer.done_writing()

    def cancel(self) -> None:
        """End all calls on the streams, those that wait for a frozen teacher too, from any thread."""
        with self._lock:
            self.cancelled = True
            streams = list(self._streams)
        for stream in streams:
            stream.reader.cancel()

    def close(self) -> None:
        """Close the writers of ended streams, of a cancelled channel all, from the sender's thread."""
        with self._lock:
            closing = [s for s in self._streams if s.ended or self.cancelled]
            self._streams = [s for s in self._streams if s not in closing]
        for stream in closing:
            stream.close()
