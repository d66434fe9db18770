"""What the parts of a connection report to the dispatcher, and the one queue that carries it.

Every connection's heartbeat, sender and receivers put events and never wait for the dispatcher; its thread is the only
one that takes them. Events of one thread arrive in their order. `number` is the endpoint's place in the dispatcher's
list, `generation` the connection that the event is about: the dispatcher drops events of one that has ended.
"""

import queue
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass

from mkd.semi.entropy import PseudoLabels
from mkd.teacher import protocol
from mkd.teacher.client.connection.channel import Channel
from mkd.teacher.client.flight_client import Hello


@dataclass(frozen=True)
class Connected:
    """A hello was answered: the first of a generation connects.

    Attributes:
        number: of the endpoint.
        generation: of the connection.
        channel: to send requests through.
        hello: the teacher's limits and state.
        header: whose weights it has, after the student's were published where it was behind.
        asked: when the hello was sent, monotonic seconds.
    """

    number: int
    generation: int
    channel: Channel
    hello: Hello
    header: protocol.WeightsVersion
    asked: float


@dataclass(frozen=True)
class Disconnected:
    """A connection failed.

    Attributes:
        number: of the endpoint.
        generation: of the connection.
        reason: for people.
        refused: the teacher will not serve this student.
        in_use: it failed while it was used, not at a hello.
    """

    number: int
    generation: int
    reason: str
    refused: bool = False
    in_use: bool = False


@dataclass(frozen=True)
class Answer:
    """A request came back, with labels or with the reason why there are none.

    Attributes:
        number: of the endpoint.
        generation: of the connection.
        reply: beside the labels.
        labels: on the CPU; None where the status is not ok.
        kept: sum over the tiles of the share of pixels with a label.
        arrived: when, monotonic seconds.
    """

    number: int
    generation: int
    reply: protocol.Reply
    labels: PseudoLabels | None
    kept: float
    arrived: float


@dataclass(frozen=True)
class Skipped:
    """A request was not sent, because nobody waited for it any more.

    Attributes:
        number: of the endpoint.
        generation: of the connection.
        id: of the request.
    """

    number: int
    generation: int
    id: int


@dataclass(frozen=True)
class ThreadDied:
    """A thread ended by an error that nobody expected; unseen, the student would wait for ever.

    Attributes:
        name: of the thread.
        error: what ended it.
    """

    name: str
    error: Exception


@dataclass(frozen=True)
class Close:
    """Ends the thread that reads it from its queue."""


ConnectionEvent = Connected | Disconnected | Answer | Skipped
Events = queue.SimpleQueue[ConnectionEvent | ThreadDied | Close]


class ReportingThread(threading.Thread, ABC):
    """A thread whose unexpected end is an event.

    Args:
        name: for people.
        events: where it reports.
    """

    def __init__(self, name: str, events: Events) -> None:
        """Start nothing yet."""
        super().__init__(name=name, daemon=True)
        self.events = events

    def run(self) -> None:
        """Work, and report an error that ends it."""
        try:
            self.work()
        except Exception as error:
            self.events.put(ThreadDied(self.name, error))

    @abstractmethod
    def work(self) -> None:
        """Do what the thread is for."""
