"""The part of a connection that reads answers: one thread for each stream."""

import time
from typing import Any

from mkd.teacher import protocol
from mkd.teacher.client.connection.channel import Channel, RequestStream
from mkd.teacher.client.connection.events import Answer, Disconnected, Events, ReportingThread
from mkd.teacher.client.flight_client import meaning, read_answer


class Receiver(ReportingThread):
    """Reports the answers of one stream until it ends; an end that nobody asked for is a failed connection.

    It waits for the teacher only; `Channel.cancel` ends the wait.

    Args:
        number: of the endpoint.
        endpoint: HOST:PORT.
        channel: of the stream.
        stream: to read.
        events: where it reports.
    """

    def __init__(
        self, number: int, endpoint: str, channel: Channel, stream: RequestStream, events: Events
    ) -> None:
        """Start nothing yet."""
        super().__init__(f"receiver {endpoint}", events)
        self._number, self._channel, self._stream = number, channel, stream

    def work(self) -> None:
        """Read until the stream ends."""
        try:
            while True:
                chunk = self._stream.reader.read_chunk()
                self._report(chunk, protocol.read_reply(chunk.app_metadata))
        except StopIteration:
            self._stream.ended = True
            if not self._stream.retired:
                self._fail(OSError("it closed the stream"))
        except Exception as error:
            self._fail(error)

    def _report(self, chunk: Any, reply: protocol.Reply) -> None:
        """Report one answer; one that nobody asked for here is let go."""
        if reply.id < 0:
            raise OSError("it is stopping")
        tiles = self._stream.sent.pop(reply.id, None)
        if tiles is None:
            return
        labels, kept = None, 0.0
        if reply.status == protocol.OK:
            labels, kept = read_answer(chunk, tiles, *self._stream.size)
        generation = self._channel.generation
        self.events.put(Answer(self._number, generation, reply, labels, kept, time.monotonic()))

    def _fail(self, error: Exception) -> None:
        reason = str(meaning(error))
        self.events.put(Disconnected(self._number, self._channel.generation, reason, in_use=True))
