"""One endpoint as the student sees it: greeted again and again, asked, published to, given up when it is gone."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from torch import Tensor

from mkd.teacher import protocol
from mkd.teacher.client.flight_client import (
    SLOWEST,
    STREAM_SECONDS,
    Access,
    FlightClient,
    Hello,
    Lost,
    Refused,
    meaning,
    read_answer,
)
from mkd.teacher.client.latency_estimate import LatencyEstimate
from mkd.teacher.client.request import Desk, PendingRequest
from mkd.teacher.client.streams import Streams

GREET_EVERY = 1.0  # seconds between greetings: how soon a frozen or late teacher is noticed
SOON = 0.0025  # seconds until the first greeting, then ever longer, while requests wait for newer weights
LONGEST_PAUSE = 2.0  # seconds between attempts to reach an endpoint that is down
RENEW_AFTER = 0.75 * STREAM_SECONDS  # its last answers have the rest of its time to come
FORGIVEN_AFTER = 10.0  # seconds after which a teacher that failed a batch is asked like the others


class Link:
    """One endpoint: a thread keeps it, a thread sends, each stream has a thread that receives.

    Whatever goes wrong in one of them ends the connection, which is said: a thread that ended unseen would leave the
    student waiting for ever.

    Args:
        endpoint: HOST:PORT.
        access: how to reach it.
        desk: the student's side.
        say: where a line for people goes.

    Attributes:
        state: new (never tried), up, down, refused.
        reason: why it is not up, for people.
        header: whose weights it has, or None.
        ailing: its last answer was a failure, or it is stopping.
        stopping: it takes no requests and no weights any more.
        requests: asked here and not answered, by id.
        pace: seconds a tile while it had work.
        wake: set it to be greeted and published to at once.
    """

    def __init__(self, endpoint: str, access: Access, desk: Desk, say: Callable[[str], None]) -> None:
        """Start to connect."""
        self.endpoint, self._access, self._desk, self._say = endpoint, access, desk, say
        self.state, self.reason, self.ailing, self.stopping = "new", "not tried yet", False, False
        self.pace = LatencyEstimate()
        self.header: protocol.WeightsVersion | None = None
        self.max_batch = self.max_tile = 0
        self.requests: dict[int, PendingRequest] = {}
        self._waiting: deque[PendingRequest] = deque()
        self._streams = Streams()
        self._caller: FlightClient | None = None
        self._life = 0  # counts connections: an error of an earlier one must not end a later one
        self._eager = SOON
        self._since, self._told = 0.0, ""
        self._empty_since: float | None = None  # greetings find nothing of ours there since, though we wait
        self._lossy = False  # the last connection ended because an answer did not come
        self.wake = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"{work.__name__} {endpoint}", daemon=True)
            for work in (self._keep, self._send)
        ]
        for thread in self._threads:
            thread.start()

    # Called with the desk's lock held.

    def fits(self, images: Tensor) -> bool:
        """Return whether the teacher takes requests of this size."""
        return len(images) <= self.max_batch and max(images.shape[2:]) <= self.max_tile

    def sizes(self) -> str:
        """Return what requests the teacher takes, for people."""
        return f"max_batch={self.max_batch} of max_tile={self.max_tile}"

    def serves(self, request: PendingRequest) -> bool:
        """Return whether the teacher is there, takes this size, and has weights that may answer."""
        header, ask = self.header, request.ask
        if self.state != "up" or header is None or not self.fits(request.images):
            return False
        return header.session == ask.session and ask.min_version <= header.version <= self._desk.newest

    def excuse(self, request: PendingRequest) -> str:
        """Return why the teacher does not serve a request, for people."""
        if self.state == "up" and not self.ailing and self.header is not None:
            if not self.fits(request.images):
                return f"takes {self.sizes()}"
            has, ask = self.header, request.ask
            needs = f"version {ask.min_version} to {self._desk.newest} of {ask.session} is needed"
            return f"has version {has.version} of {has.session or 'no session'}, {needs}"
        return f"it refuses: {self.reason}" if self.state == "refused" else self.reason

    def cost(self, tiles: int, best: float) -> float:
        """Return the seconds until these tiles would be labelled here; see `LatencyEstimate.expected`."""
        counts = [len(r.images) for r in self.requests.values()]
        return self.pace.expected(time.monotonic(), best, tiles, sum(counts), counts[0] if counts else 0)

    def overdue(self, best: float) -> bool:
        """Return whether the next answer should have been here long ago; see `LatencyEstimate.overdue`."""
        first = next(iter(self.requests.values()), None)
        return first is not None and self.pace.overdue(time.monotonic(), best, len(first.images))

    def hurry(self) -> None:
        """Greet soon and often: a request waits for newer weights."""
        if self.state == "up":
            self._eager = SOON
            self.wake.set()

    def give(self, request: PendingRequest) -> None:
        """Ask here."""
        if not self.requests:
            self.pace.begin(time.monotonic())
        self.requests[request.ask.id] = request
        self._waiting.append(request)
        self._desk.changed.notify_all()

    def forget(self) -> None:
        """Let go of all requests; answers that still come are not looked at."""
        self.requests.clear()
        self._waiting.clear()

    # The keeper's thread.

    def _keep(self) -> None:
        """Greet again and again; publish where the teacher is behind; come back after a fall."""
        pause = 0.1
        while not self._desk.closed:
            life = self._life
            try:
                self._visit(life)
            except Refused as error:
                self._fall(life, "refused", str(error))
                pause = LONGEST_PAUSE
            except Exception as error:
                self._fall(life, "down", str(meaning(error)))
                pause = min(2 * pause, LONGEST_PAUSE)
            if self.state == "up":
                pause = self._eager = min(2 * self._eager, GREET_EVERY) if self._desk.hungry else GREET_EVERY
            self.wake.wait(pause)
            self.wake.clear()
        if self.state == "up" and self._caller is not None:
            with contextlib.suppress(*Lost, ValueError):
                self._caller.bye()

    def _visit(self, life: int) -> None:
        """Greet the teacher and bring it the newest weights; then it is up."""
        caller, began = self._caller or FlightClient(self.endpoint, self._access), time.monotonic()
        self._caller = caller
        hello = caller.hello()
        self._check_work(hello, began)
        header, packet = hello.header, self._desk.packet
        if packet is not None and not header.covers(packet.header) and not hello.stopping:
            header = caller.publish(packet)
        with self._desk.changed:
            if life != self._life:
                return
            self.max_batch, self.max_tile = hello.max_batch, hello.max_tile
            if header != self.header:
                self.header, self._eager = header, SOON
            self.stopping = hello.stopping
            if self.stopping:
                self.ailing, self.reason = True, "it is stopping"
            elif time.monotonic() - self.pace.since > FORGIVEN_AFTER:
                self.ailing = False
            if self.state != "up":
                self.state, self.pace, self._since = "up", LatencyEstimate(), time.monotonic()
                self.pace.begin(self._since)
                self.ailing, self._lossy = self._lossy, False
                self._tell(f"answers, with version {header.version} of the weights")
            self._streams.outgrow(time.monotonic() - RENEW_AFTER)
            self._desk.assign()
            self._desk.changed.notify_all()

    def _check_work(self, hello: Hello, began: float) -> None:
        """Raise OSError where a teacher that greets does not do its work; ``began`` is when it was greeted."""
        patience = self._desk.patience
        if hello.busy_s > patience:
            raise OSError(f"it has worked on one batch for more than {patience:.0f} s; start it again")
        with self._desk.changed:
            waited = time.monotonic() - self.pace.since if self.requests else 0.0
            # What is on the wire is not there yet either.
            sent = sum(r.images.nbytes for r in self.requests.values())
            grace = self._access.timeout + sent / SLOWEST
            if waited > patience + grace:
                self._lossy = True
                raise OSError(f"it has not answered for more than {patience:.0f} s; start it again")
            if not self.requests or hello.pending:
                self._empty_since = None
                return
            self._empty_since = began if self._empty_since is None else self._empty_since
            if min(waited, time.monotonic() - self._empty_since) > grace:
                self._lossy = True
                raise OSError(f"it knows nothing of a request of {waited:.0f} s ago")

    # The sender's thread.

    def _send(self) -> None:
        """Write requests as they come; only this thread touches a writer."""
        while True:
            with self._desk.changed:
                self._desk.changed.wait_for(self._sender_wanted)
                if self._desk.closed:
                    self._streams.drop_all()
                dropped, closed, life = self._streams.dropped(), self._desk.closed, self._life
                request = self._next() if self.state == "up" else None
                old = self._streams.outgrown()
            self._streams.hang_up(dropped)
            if closed:
                return
            try:
                for writer in old:
                    writer.done_writing()
                if request is not None:
                    self._write(request, life)
            except Exception as error:
                self._lose(life, meaning(error))

    def _next(self) -> PendingRequest | None:
        """Return the next request to send, leaving out those that were answered elsewhere meanwhile."""
        while self._waiting:
            request = self._waiting.popleft()
            if not request.done:
                return request
            self.requests.pop(request.ask.id, None)
        return None

    def _sender_wanted(self) -> bool:
        return self._desk.closed or self._streams.untidy or (bool(self._waiting) and self.state == "up")

    def _write(self, request: PendingRequest, life: int) -> None:
        images = request.images.cpu()
        schema = protocol.image_schema(*images.shape[2:])
        batch = pa.record_batch([protocol.tensor_column(images, schema.field(0).type)], schema=schema)
        writer = self._stream((images.shape[2], images.shape[3]), life)
        writer.write_with_metadata(batch, pa.py_buffer(protocol.pack(request.ask)))

    def _stream(self, size: tuple[int, int], life: int) -> Any:
        """Return the writer of the stream of this tile size, opened at its first use."""
        with self._desk.changed:
            writer, caller = self._streams.writer(size), self._caller
            if life != self._life or caller is None:
                raise OSError("the connection is gone")
        if writer is not None:
            return writer
        writer, reader = caller.open(*size)
        with self._desk.changed:
            if life != self._life:
                self._streams.drop(writer, reader)
                raise OSError("the connection is gone")
            self._streams.add(size, writer, reader)
        name = f"receive {self.endpoint}"
        threading.Thread(target=self._receive, args=(reader, life), name=name, daemon=True).start()
        return writer

    # A receiver's thread.

    def _receive(self, reader: Any, life: int) -> None:
        """Take answers until the stream ends."""
        try:
            while True:
                chunk = reader.read_chunk()
                self._take(chunk, protocol.read_reply(chunk.app_metadata), life)
        except StopIteration:
            with self._desk.changed:
                ended = self._streams.ended(reader)
                self._desk.changed.notify_all()
            if not ended:
                self._lose(life, OSError("it closed the stream"))
        except Exception as error:
            self._lose(life, meaning(error))

    def _take(self, chunk: Any, reply: protocol.Reply, life: int) -> None:
        """Hand one answer to whoever asked; an answer that nobody waits for is let go."""
        if reply.id < 0:
            raise OSError("it is stopping")
        request = self.requests.get(reply.id)
        if request is None:
            return
        labels, kept = None, 0.0
        if reply.status == protocol.OK:
            labels, kept = read_answer(chunk, len(request.images), *request.images.shape[2:])
        with self._desk.changed:
            if life != self._life or self.requests.pop(reply.id, None) is not request:
                return
            self.pace.answer(time.monotonic(), len(request.images), labels is not None)
            self.ailing = reply.status not in (protocol.OK, protocol.BEHIND)
            if labels is None:
                # A greeting tells what it has by now; this answer may be older than weights sent since.
                self.header, self.reason = None, reply.reason or reply.status
                self._desk.again([request], 1.0 if self.ailing else 0.0)
            elif not request.done and request.labels is None:  # else another teacher was first
                request.labels, request.reply, request.kept = labels, reply, kept
            self._desk.changed.notify_all()
        if labels is None:
            self.wake.set()

    # Any thread.

    def _fall(self, life: int, state: str, reason: str) -> None:
        """Give up one connection; what was asked there is asked elsewhere."""
        with self._desk.changed:
            if life != self._life or self._desk.closed:
                return
            self._life += 1
            self.state, self.reason, self.header, self._empty_since = state, reason, None, None
            self._caller = None
            self._streams.drop_all()
            requests = list(self.requests.values())
            self.forget()
            self._tell(f"{'refuses: ' if state == 'refused' else ''}{reason}")
            self._desk.again(requests, 0.0)
            self._desk.changed.notify_all()

    def _lose(self, life: int, error: Exception) -> None:
        """Give up a connection that failed in use; unless it was a short one, try the next one at once."""
        lasted = time.monotonic() - self._since
        self._fall(life, "down", str(error))
        if lasted > GREET_EVERY:
            self.wake.set()

    def hang_up(self) -> None:
        """Cancel what is under way; the desk is closed already."""
        self.wake.set()
        with self._desk.changed:
            self._streams.drop_all()
            self._desk.changed.notify_all()

    def join(self, until: float) -> None:
        """Wait for the threads up to a time, monotonic seconds; one that waits for a frozen teacher may be later."""
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _tell(self, text: str) -> None:
        """Say what changed, once in a row."""
        if text != self._told:
            self._told = text
            self._say(f"teacher {self.endpoint}: {text}")
