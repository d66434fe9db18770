"""A student's connection to one endpoint: heartbeat, sender and receivers, and what the dispatcher asks of them."""

import time

from mkd.teacher.client.connection.channel import Channel
from mkd.teacher.client.connection.events import Close, Events
from mkd.teacher.client.connection.heartbeat import Heartbeat, Hurry, Reconnect
from mkd.teacher.client.connection.sender import Send, Sender, TidyUp
from mkd.teacher.client.flight_client import Access
from mkd.teacher.client.publisher import Packet
from mkd.teacher.client.request import PendingRequest


class Connection:
    """Hands the dispatcher's commands to the threads of one endpoint; no call waits for them but `join`.

    Args:
        number: of the endpoint in the dispatcher's list.
        endpoint: HOST:PORT.
        access: how to reach it.
        patience: seconds that a teacher may work on one batch.
        events: where the threads report.
    """

    def __init__(self, number: int, endpoint: str, access: Access, patience: float, events: Events) -> None:
        """Start to connect."""
        self._sender = Sender(number, endpoint, events)
        self._heartbeat = Heartbeat(number, endpoint, access, patience, self._sender, events)
        for thread in (self._sender, self._heartbeat):
            thread.start()

    def send(self, channel: Channel, request: PendingRequest) -> None:
        """Ask the teacher."""
        self._sender.commands.put(Send(channel, request))

    def hurry(self, when: Hurry) -> None:
        """Say the next hello sooner."""
        self._heartbeat.commands.put(when)

    def publish(self, packet: Packet | None) -> None:
        """Bring the teacher these weights where it is behind; None forgets earlier ones."""
        self._heartbeat.packet = packet
        if packet is not None:
            self.hurry(Hurry.NOW)

    def end(self, channel: Channel, at_once: bool) -> None:
        """Give up a generation; the next one begins at once or after a pause."""
        channel.cancel()
        self._sender.commands.put(TidyUp(channel))
        self._heartbeat.commands.put(Reconnect(channel.generation, at_once))

    def close(self, channel: Channel | None) -> None:
        """Give up the present generation, if there is one, and let the threads end."""
        if channel is not None:
            channel.cancel()
            self._sender.commands.put(TidyUp(channel))
        self._sender.commands.put(Close())
        self._heartbeat.commands.put(Close())

    def join(self, until: float) -> None:
        """Wait for the threads up to a time, monotonic seconds; one that waits for a frozen teacher may be later."""
        for thread in (self._heartbeat, self._sender):
            thread.join(max(0.0, until - time.monotonic()))
