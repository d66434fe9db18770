"""The part of a connection that keeps it: says hello again and again, publishes weights, reconnects."""

import contextlib
import enum
import queue
import time
from dataclasses import dataclass

from mkd.teacher.client.connection.channel import Channel
from mkd.teacher.client.connection.events import Close, Connected, Disconnected, Events, ReportingThread
from mkd.teacher.client.connection.sender import Sender, TidyUp
from mkd.teacher.client.flight_client import (
    STREAM_SECONDS,
    Access,
    FlightClient,
    Lost,
    Refused,
    meaning,
)
from mkd.teacher.client.publisher import Packet

HELLO_EVERY = 1.0  # seconds between hellos: how soon a frozen or late teacher is noticed
SOON = 0.0025  # seconds until the next hello, then ever longer, while requests wait for newer weights
LONGEST_PAUSE = 2.0  # seconds between attempts to reach an endpoint that is down
RENEW_AFTER = 0.75 * STREAM_SECONDS  # a stream's last answers have the rest of its time to come


class Hurry(enum.Enum):
    """When the next hello is wanted.

    Attributes:
        NOW: at once.
        OFTEN: at once, and the pauses after it begin at SOON.
        SOON: after a pause that doubles from hello to hello: requests wait for newer weights.
    """

    NOW = enum.auto()
    OFTEN = enum.auto()
    SOON = enum.auto()


@dataclass(frozen=True)
class Reconnect:
    """Says that a generation has ended.

    Attributes:
        generation: that has ended.
        at_once: connect again without a pause.
    """

    generation: int
    at_once: bool


class Heartbeat(ReportingThread):
    """Says hello to one endpoint; the only thread that begins a generation of its connection.

    It waits in calls for the teacher, each with a time limit, and between them at its queue for the dispatcher or the
    next hello. Nobody waits for it but `close`, for a limited time.

    Args:
        number: of the endpoint.
        endpoint: HOST:PORT.
        access: how to reach it.
        patience: seconds that a teacher may work on one batch.
        sender: of the same connection; told to renew streams.
        events: where it reports.

    Attributes:
        commands: what the dispatcher asks of it.
        packet: newest weights to publish, or None. The dispatcher replaces it and then sends a hurry: a queue of
            packets would fill memory while a frozen teacher is waited for.
    """

    def __init__(
        self, number: int, endpoint: str, access: Access, patience: float, sender: Sender, events: Events
    ) -> None:
        """Start nothing yet."""
        super().__init__(f"heartbeat {endpoint}", events)
        self._number, self._endpoint, self._access, self._patience = number, endpoint, access, patience
        self._sender = sender
        self.commands: queue.SimpleQueue[Hurry | Reconnect | Close] = queue.SimpleQueue()
        self.packet: Packet | None = None
        self._generation = 0
        self._channel: Channel | None = None
        self._header: object = None  # at the last hello
        self._soon = SOON

    def work(self) -> None:
        """Say hello until told to end; then leave, so that another job may have the teacher at once."""
        pause, open_ = 0.1, True
        while open_:
            try:
                self._hello()
                pause = HELLO_EVERY
            except Exception as error:
                cause = meaning(error) if not isinstance(error, Refused) else error
                refused = isinstance(error, Refused)
                pause = LONGEST_PAUSE if refused else min(2 * pause, LONGEST_PAUSE)
                self._channel = self._header = None
                self.events.put(Disconnected(self._number, self._generation, str(cause), refused))
            open_ = self._wait(pause)
        if self._channel is not None:
            with contextlib.suppress(*Lost, ValueError):
                self._channel.client.bye()

    def _hello(self) -> None:
        """Say hello, publish the newest weights where the teacher is behind, and report."""
        if self._channel is None:
            self._generation += 1
            self._channel = Channel(FlightClient(self._endpoint, self._access), self._generation)
        channel, asked = self._channel, time.monotonic()
        hello = channel.client.hello()
        if hello.busy_s > self._patience:
            raise OSError(f"it has worked on one batch for more than {self._patience:.0f} s; start it again")
        header, packet = hello.header, self.packet
        if packet is not None and not header.covers(packet.header) and not hello.stopping:
            header = channel.client.publish(packet)
        if header != self._header:
            self._header, self._soon = header, SOON
        self.events.put(Connected(self._number, self._generation, channel, hello, header, asked))
        self._sender.commands.put(TidyUp(channel, time.monotonic() - RENEW_AFTER))

    def _wait(self, pause: float) -> bool:
        """Wait for the next hello, at most so many seconds; return False when told to end."""
        until, hurried = time.monotonic() + pause, False
        while True:
            try:
                command = self.commands.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            match command:
                case Close():
                    return False
                case Reconnect():
                    if self._channel is not None and self._channel.generation == command.generation:
                        self._channel = self._header = None
                        until = 0.0 if command.at_once else until
                case Hurry.SOON if not hurried:
                    hurried, until = True, min(until, time.monotonic() + self._soon)
                    self._soon = min(2 * self._soon, HELLO_EVERY)
                case Hurry.OFTEN:
                    hurried, until, self._soon = True, 0.0, SOON
                case Hurry.NOW:
                    until = 0.0
        self._soon = self._soon if hurried else HELLO_EVERY
        return True
