"""One teacher as the dispatcher knows it: its state, its limits, the requests it holds and how long it takes."""

import logging
from typing import Literal

from torch import Tensor

from mkd.cli.printable import printable
from mkd.teacher import protocol
from mkd.teacher.client.connection.channel import Channel
from mkd.teacher.client.connection.connection import Connection
from mkd.teacher.client.connection.events import Answer, Connected
from mkd.teacher.client.flight_client import SLOWEST
from mkd.teacher.client.latency_estimate import LatencyEstimate
from mkd.teacher.client.request import PendingRequest

FORGIVEN_AFTER = 10.0  # seconds after which a teacher that failed a batch is asked like the others
State = Literal["new", "up", "down", "refused"]

log = logging.getLogger(__name__)


class Endpoint:
    """State of one endpoint; it starts no thread and has no lock, the dispatcher's guards it. Times are monotonic.

    Args:
        name: HOST:PORT.
        connection: to it.

    Attributes:
        state: new (never tried), up, down, refused.
        reason: why it is not up, for people.
        header: whose weights it has, or None.
        degraded: it is asked only where there is no other: it is stopping, its last
            answer was a failure, or its last connection lost one.
        stopping: it takes no requests and no weights any more.
        requests: asked here and not answered, by id.
        latency: seconds a tile while it had work.
        channel: of the present generation, while it is up.
        ended: newest generation that has ended; its late events are dropped.
    """

    def __init__(self, name: str, connection: Connection) -> None:
        """Know nothing yet."""
        self.name, self.connection = name, connection
        self.state: State = "new"
        self.reason, self.degraded, self.stopping = "not tried yet", False, False
        self.header: protocol.WeightsVersion | None = None
        self.requests: dict[int, PendingRequest] = {}
        self.latency = LatencyEstimate()
        self.channel: Channel | None = None
        self.max_batch = self.max_tile = self.ended = 0
        self.since = 0.0  # when it came up
        self._unknown_since: float | None = None  # hellos find nothing of ours there since, though we wait
        self._lossy = False  # the last connection ended because an answer did not come
        self._logged = ""

    def fits(self, images: Tensor) -> bool:
        """Return whether the teacher takes requests of this size."""
        return len(images) <= self.max_batch and max(images.shape[2:]) <= self.max_tile

    def sizes(self) -> str:
        """Return what requests the teacher takes, for people."""
        return f"max_batch={self.max_batch} of max_tile={self.max_tile}"

    def serves(self, request: PendingRequest, newest: int) -> bool:
        """Return whether the teacher is there, takes this size, and has weights that may answer, up to a version."""
        header, ask = self.header, request.ask
        if self.state != "up" or header is None or not self.fits(request.images):
            return False
        return header.session == ask.session and ask.min_version <= header.version <= newest

    def reason_for(self, request: PendingRequest, newest: int) -> str:
        """Return why the teacher does not serve a request, for people; nothing that it sent acts on a terminal."""
        return printable(self._reason_for(request, newest))

    def _reason_for(self, request: PendingRequest, newest: int) -> str:
        if self.state == "up" and not self.degraded and self.header is not None:
            if not self.fits(request.images):
                return f"takes {self.sizes()}"
            has, ask = self.header, request.ask
            needs = f"version {ask.min_version} to {newest} of {ask.session} is needed"
            return f"has version {has.version} of {has.session or 'no session'}, {needs}"
        return f"it refuses: {self.reason}" if self.state == "refused" else self.reason

    def cost(self, tiles: int, best: float, now: float) -> float:
        """Return the seconds until these tiles would be labelled here; see `LatencyEstimate.expected`."""
        counts = [len(r.images) for r in self.requests.values()]
        return self.latency.expected(now, best, tiles, sum(counts), counts[0] if counts else 0)

    def overdue(self, best: float, now: float) -> bool:
        """Return whether the next answer should have been here long ago; see `LatencyEstimate.overdue`."""
        first = next(iter(self.requests.values()), None)
        return first is not None and self.latency.overdue(now, best, len(first.images))

    def hold(self, request: PendingRequest, now: float) -> None:
        """Ask here."""
        if not self.requests:
            self.latency.begin(now)
        self.requests[request.ask.id] = request
        if self.channel is not None:
            self.connection.send(self.channel, request)

    def lost_answer(self, event: Connected, patience: float, timeout: float, now: float) -> str | None:
        """Return what is wrong with a teacher that answers hellos and not requests, or None."""
        waited = now - self.latency.since if self.requests else 0.0
        # What is on the wire is not there yet either.
        grace = timeout + sum(r.images.nbytes for r in self.requests.values()) / SLOWEST
        fault = None
        if waited > patience + grace:
            fault = f"it has not answered for more than {patience:.0f} s; start it again"
        elif not self.requests or event.hello.pending:
            self._unknown_since = None
        else:
            self._unknown_since = event.asked if self._unknown_since is None else self._unknown_since
            if min(waited, now - self._unknown_since) > grace:
                fault = f"it knows nothing of a request of {waited:.0f} s ago"
        self._lossy = self._lossy or fault is not None
        return fault

    def connect(self, event: Connected, now: float) -> None:
        """Take what a hello tells; the first one of a generation brings the endpoint up."""
        self.channel, self.header, self.stopping = event.channel, event.header, event.hello.stopping
        self.max_batch, self.max_tile = event.hello.max_batch, event.hello.max_tile
        if self.stopping:
            self.degraded, self.reason = True, "it is stopping"
        elif now - self.latency.since > FORGIVEN_AFTER:
            self.degraded = False
        if self.state != "up":
            self.state, self.latency, self.since = "up", LatencyEstimate(), now
            self.latency.begin(now)
            self.degraded, self._lossy = self._lossy, False
            self._log(logging.INFO, f"answers, with version {event.header.version} of the weights")

    def disconnect(self, generation: int, reason: str, refused: bool) -> list[PendingRequest]:
        """End a generation; return what was asked there."""
        self.ended, self.state = generation, "refused" if refused else "down"
        self.reason, self.header, self.channel, self._unknown_since = reason, None, None, None
        self._log(logging.WARNING, f"{'refuses: ' if refused else ''}{reason}")
        requests = list(self.requests.values())
        self.requests.clear()
        return requests

    def answer(self, event: Answer) -> PendingRequest | None:
        """Take an answer; return the request that it belongs to, unless it was let go."""
        request = self.requests.pop(event.reply.id, None)
        if request is None:
            return None
        self.latency.answer(event.arrived, len(request.images), event.labels is not None)
        self.degraded = event.reply.status not in (protocol.OK, protocol.BEHIND)
        if event.labels is None:
            # A hello tells what it has by now; this answer may be older than weights sent since.
            self.header, self.reason = None, event.reply.reason or event.reply.status
        return request

    def _log(self, level: int, text: str) -> None:
        """Log what changed, once in a row."""
        if text != self._logged:
            self._logged = text
            log.log(level, "teacher %s: %s", self.name, printable(text))
