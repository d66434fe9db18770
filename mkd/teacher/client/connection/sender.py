"""The part of a connection that writes requests; the only thread that touches a stream's writer."""

import queue
from dataclasses import dataclass

import pyarrow as pa

from mkd.teacher import protocol
from mkd.teacher.client.connection.channel import Channel, RequestStream
from mkd.teacher.client.connection.events import Close, Disconnected, Events, ReportingThread, Skipped
from mkd.teacher.client.connection.receiver import Receiver
from mkd.teacher.client.flight_client import meaning
from mkd.teacher.client.request import PendingRequest


@dataclass(frozen=True)
class Send:
    """Asks for a request to be written to a channel, on the stream of its tile size."""

    channel: Channel
    request: PendingRequest


@dataclass(frozen=True)
class TidyUp:
    """Asks for a channel's ended streams to be closed, all of a cancelled one, and for old ones to be retired.

    Attributes:
        channel: whose streams.
        before: streams opened before this time, monotonic seconds, are retired.
    """

    channel: Channel
    before: float = 0.0


class Sender(ReportingThread):
    """Writes requests in the order in which the dispatcher hands them over.

    It waits at its queue for commands, and in a write for the teacher to read; `Channel.cancel` ends the latter.
    Nobody waits for it but `close`, for a limited time.

    Args:
        number: of the endpoint.
        endpoint: HOST:PORT.
        events: where it reports.

    Attributes:
        commands: what the dispatcher and the heartbeat ask of it.
    """

    def __init__(self, number: int, endpoint: str, events: Events) -> None:
        """Start nothing yet."""
        super().__init__(f"sender {endpoint}", events)
        self._number, self._endpoint = number, endpoint
        self.commands: queue.SimpleQueue[Send | TidyUp | Close] = queue.SimpleQueue()

    def work(self) -> None:
        """Carry out commands until told to end."""
        while not isinstance(command := self.commands.get(), Close):
            channel = command.channel
            try:
                if isinstance(command, Send):
                    self._send(channel, command.request)
                else:
                    channel.close()
                    channel.retire(command.before)
            except Exception as error:
                reason = str(meaning(error))
                self.events.put(Disconnected(self._number, channel.generation, reason, in_use=True))

    def _send(self, channel: Channel, request: PendingRequest) -> None:
        """Write a request, unless its connection has ended or another teacher has answered it."""
        if channel.cancelled:
            return
        if request.done:
            self.events.put(Skipped(self._number, channel.generation, request.ask.id))
            return
        images = request.images.cpu()
        size = (images.shape[2], images.shape[3])
        schema = protocol.image_schema(*size, protocol.float_bands(images))
        batch = pa.record_batch([protocol.tensor_column(images, schema.field(0).type)], schema=schema)
        stream = channel.stream(size) or self._open(channel, size)
        stream.sent[request.ask.id] = len(images)
        stream.writer.write_with_metadata(batch, pa.py_buffer(protocol.pack(request.ask)))

    def _open(self, channel: Channel, size: tuple[int, int]) -> RequestStream:
        """Open the stream of a tile size at its first request, and start to receive its answers."""
        stream = channel.open(size)
        Receiver(self._number, self._endpoint, channel, stream, self.events).start()
        return stream
