"""The teacher service: Arrow Flight in front of the batcher. What is wrong with a call ends that call only.

One thing it cannot refuse: pyarrow decompresses a message before anybody is told its size, so a holder of the token
can make the service take memory by a small message that is large when decompressed. The token is the rule against it;
without one, everybody on the machine can.
"""

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.flight as fl

from mkd.teacher import protocol, weights
from mkd.teacher.auth import Complaints, TokenCheck, is_loopback
from mkd.teacher.server.answer_stream import AnswerStream
from mkd.teacher.server.batcher import Batcher, QueuedRequest
from mkd.teacher.server.memory_budget import MemoryBudget

MOST_STREAMS = 4096  # a few thousand students; memory is bounded by bytes
# Of requests without a written answer; one request of each stream comes on top. Readers wait at more.
MOST_BYTES = 4 << 30
SILENT = 20.0  # seconds without a word of a student job after which another one may have the teacher
GRACE = 3.0  # seconds that clients get to hang up when the service stops
MOST_UPLOADS = 2  # weights on their way at once; each needs its memory


@dataclass(frozen=True)
class Limits:
    """What a service accepts.

    Attributes:
        max_batch: tiles in one request (and in one forward pass).
        max_tile: side of a tile, pixels.
        queue: requests of one stream that may lack an answer.
    """

    max_batch: int
    max_tile: int
    queue: int


class TeacherServer(fl.FlightServerBase):  # type: ignore[misc]
    """One teacher on one port; it serves from construction on.

    Args:
        batcher: owns the network; started here.
        identity: architecture, classes and normalisation that students must have.
        limits: what is accepted.
        host: address to listen on.
        port: 0 takes a free one.
        token: on every call, or None.
        tls: certificate and key, PEM, or None.
        device: for the status.
        say: where a line for people goes.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(
        self,
        batcher: Batcher,
        identity: protocol.Identity,
        limits: Limits,
        host: str,
        port: int,
        token: str | None,
        tls: tuple[bytes, bytes] | None,
        device: str,
        say: Callable[[str], None],
    ) -> None:
        """Listen and start the batcher."""
        self._batcher, self._identity, self._limits = batcher, identity, limits
        self._layout = weights.layout(batcher.model)
        self._most = weights.most_bytes(self._layout)
        self._complain = Complaints(say)
        self._lock, self._device = threading.Lock(), device
        self._streams: set[AnswerStream] = set()
        self._room = MemoryBudget(MOST_BYTES)
        self._uploads = threading.BoundedSemaphore(MOST_UPLOADS)
        self._owner: str | None = None  # the student job that published last, and when it was heard last
        self._heard = 0.0
        middleware = {} if token is None else {"token": TokenCheck(token, self._complain)}
        # The library logs each malformed call, without a limit; what matters of them is said here, once.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        location = f"grpc{'+tls' if tls else ''}://{host}:{port}"
        batcher.start()
        super().__init__(location, middleware=middleware, tls_certificates=[tls] if tls else None)
        if token is not None and tls is None and not is_loopback(host):
            say(
                "the token and the images travel unencrypted; give tls_cert= and tls_key= on a shared network"
            )

    def do_exchange(self, context: Any, descriptor: fl.FlightDescriptor, reader: Any, writer: Any) -> None:
        """Answer one stream of requests."""
        with self._guard(context, "requests"):
            content = protocol.unpack(descriptor.command)
            self._check_identity(content)
            size = protocol.tile_size(reader.schema, self._limits.max_tile)
            with self._stream(writer, *size, _client(content)) as stream:
                for chunk in reader:
                    job = self._job(chunk, stream)
                    if not stream.add(job):
                        return
                    self._batcher.put(job)

    def _job(self, chunk: Any, stream: AnswerStream) -> QueuedRequest:
        ask = protocol.read_request(chunk.app_metadata)
        batch = protocol.whole(chunk.data, self._limits.max_batch)
        return QueuedRequest(ask, protocol.tensor_of(batch.column(0)), stream)

    @contextlib.contextmanager
    def _stream(self, writer: Any, height: int, width: int, client: str) -> Iterator[AnswerStream]:
        """Count an open stream; at the end its last answers are written."""
        with self._lock:
            if len(self._streams) >= MOST_STREAMS:
                raise protocol.Busy(f"{MOST_STREAMS} streams are open; more are not served")
            stream = AnswerStream(writer, height, width, self._limits.queue, self._room, client)
            self._streams.add(stream)
            self._batcher.streams = len(self._streams)
        try:
            yield stream
        finally:
            stream.finish()
            with self._lock:
                self._streams.discard(stream)
                self._batcher.streams = len(self._streams)

    def do_put(self, context: Any, descriptor: fl.FlightDescriptor, reader: Any, writer: Any) -> None:
        """Take published weights, whole or not at all."""
        with self._guard(context, "weights"):
            content = protocol.unpack(descriptor.command)
            self._check_identity(content)
            parcel = protocol.read_weights_header(content, self._most)
            if not self._uploads.acquire(blocking=False):
                raise protocol.Busy(f"{MOST_UPLOADS} uploads of weights are under way; more are not taken")
            try:
                state = self._receive(parcel, reader)
                self._take_over(parcel, state)
            finally:
                self._uploads.release()
            writer.write(pa.py_buffer(protocol.pack(self._batcher.newest())))

    def _receive(self, parcel: protocol.WeightsHeader, reader: Any) -> dict[str, Any]:
        """Return the tensors of an upload; its announced size bounds what is kept."""
        if not reader.schema.equals(protocol.WEIGHTS_SCHEMA):
            raise protocol.ProtocolError("weights come as one column of uint8")
        blob = bytearray()
        for chunk in reader:
            batch = protocol.whole(chunk.data, parcel.bytes - len(blob))
            if batch.column(0).null_count:
                raise protocol.ProtocolError("weights with missing values")
            blob += batch.column(0).to_numpy().data
        if len(blob) != parcel.bytes or weights.digest(blob) != parcel.sha256:
            raise protocol.ProtocolError(
                f"weights of {len(blob)} bytes that are not the {parcel.bytes} announced"
            )
        state, header = weights.from_bytes(bytes(blob), self._layout)
        if header != parcel.header:
            raise protocol.ProtocolError("weights whose header is not the announced one")
        return state

    def _take_over(self, parcel: protocol.WeightsHeader, state: dict[str, Any]) -> None:
        """Hand weights to the batcher, unless another student job has this teacher.

        It keeps it while it is heard: two jobs that take it from each other would both have labels of wrong weights.
        """
        header = parcel.header
        with self._lock:
            silent = time.monotonic() - self._heard
            if self._owner not in (None, header.owner) and silent < SILENT:
                raise protocol.Busy(
                    f"this teacher follows another student job (session {self._owner}, heard {silent:.0f} s ago, not "
                    f"{header.owner}); give each job teachers of its own, or end one of them"
                )
            if not self._batcher.newest().covers(header):
                self._batcher.offer(state, header)
            self._owner, self._heard = header.owner, time.monotonic()

    def do_action(self, context: Any, action: fl.Action) -> Iterator[fl.Result]:
        """Answer ``hello`` (may this student ask, and whose weights are here), ``bye`` and ``status``."""
        with self._guard(context, "action"):
            if action.type in ("hello", "bye"):
                content = protocol.unpack(action.body)
                self._check_identity(content)
                with self._lock:
                    if content.get("job") == self._owner:
                        self._heard = time.monotonic() if action.type == "hello" else -math.inf
                return iter([fl.Result(protocol.pack(self._hello(_client(content))))])
            if action.type == "status":
                return iter([fl.Result(json.dumps(self.status()).encode())])
            raise protocol.ProtocolError("an action other than hello, bye and status")

    def _hello(self, client: str) -> dict[str, Any]:
        newest, busy_s = self._batcher.newest(), self._batcher.busy_s()
        stopping = self._batcher.stopping.is_set()
        sizes = {"max_batch": self._limits.max_batch, "max_tile": self._limits.max_tile}
        with self._lock:
            pending = sum(s.pending for s in self._streams if s.client == client)
        return {**vars(newest), **sizes, "stopping": stopping, "busy_s": busy_s, "pending": pending}

    def status(self) -> dict[str, Any]:
        """Return what is shown to people and scripts."""
        newest = self._batcher.newest()
        return {
            **vars(newest),
            "queue": self._batcher.waiting(),
            "clients": len(self._streams),
            "device": self._device,
            "stopping": self._batcher.stopping.is_set(),
            "busy_s": self._batcher.busy_s(),
            "refused": dict(self._complain.counts),
            **self._batcher.gauge.read(),
        }

    def _check_identity(self, content: dict[str, Any]) -> None:
        if content.get("protocol") != protocol.PROTOCOL:
            raise protocol.ProtocolError(
                f"protocol {content.get('protocol')} at the student, {protocol.PROTOCOL} here; install the same mkd"
            )
        asked = content.get("identity")
        if differs := protocol.differences(asked if isinstance(asked, dict) else {}, self._identity):
            raise protocol.ProtocolError(
                f"another network: {differs}; start the teacher from the student's semi.start"
            )

    @contextlib.contextmanager
    def _guard(self, context: Any, kind: str) -> Iterator[None]:
        """Turn what is wrong with a message into an error of its call, said once for each kind and peer."""
        try:
            yield
        except protocol.ProtocolError as error:
            self._complain(kind, context.peer(), str(error))
            final = (
                b"" if isinstance(error, protocol.Busy) else str(error).encode()
            )  # what is refused for good
            raise fl.FlightServerError(str(error), extra_info=final) from None
        except Exception as error:  # its sender, whoever that is, gets no trace of the service's inside
            if not context.is_cancelled():
                self._complain(f"damaged {kind}", context.peer(), f"{type(error).__name__}: {error}")
            raise fl.FlightServerError("the message cannot be read") from None

    def drain(self, seconds: float) -> bool:
        """Take no more requests, answer those that were read, tell the streams, and stop listening.

        Args:
            seconds: how long the answers may take.

        Returns:
            Whether every client has hung up; a call that goes on would keep the process alive.
        """
        self._batcher.stopping.set()
        self._batcher.join(seconds)
        until = time.monotonic() + GRACE
        with self._lock:
            streams = list(self._streams)
        header = self._batcher.newest()
        notice = protocol.Reply(-1, protocol.STOPPING, header.session, header.version, header.updates)
        for stream in streams:
            stream.notify(notice, max(0.0, until - time.monotonic()))
        closing = threading.Thread(
            target=self.shutdown, daemon=True
        )  # it waits for calls, which may never end
        closing.start()
        closing.join(max(0.0, until - time.monotonic()))
        return not closing.is_alive()


def _client(content: dict[str, Any]) -> str:
    """Return the name that a student gives its connection; it need not have one."""
    return protocol.word({"client": "", **content}, "client")
