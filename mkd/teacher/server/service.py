"""The teacher service: Arrow Flight in front of the batcher. What is wrong with a call ends that call only.

One thing it cannot refuse: its library decompresses a message before anybody is told its size. So no byte comes to it
but from who has the token, by the proxy in front; a holder of the token can still make the service take memory.
"""

import contextlib
import json
import logging
import os
import re
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as fl

from mkd.teacher import protocol
from mkd.teacher.auth import is_loopback
from mkd.teacher.server.answer_stream import AnswerStream
from mkd.teacher.server.auth_proxy import AuthProxy, Door
from mkd.teacher.server.batcher import Batcher, QueuedRequest
from mkd.teacher.server.call_guard import RejectionLog, TokenCheck, guarded
from mkd.teacher.server.listener import listen
from mkd.teacher.server.memory_budget import MemoryBudget
from mkd.teacher.server.weights_intake import WeightsIntake

MOST_STREAMS = 4096  # a few thousand students; memory is bounded by bytes
# Of requests without a written answer; one request of each stream comes on top. Readers wait at more.
MOST_BYTES = 4 << 30
GRACE = 3.0  # seconds that clients get to hang up when the service stops
# The library takes the path of a unix socket as an address, and with a client's address in it it has 107 characters.
PLAIN_FOLDER = re.compile(r"[A-Za-z0-9/._-]{1,36}")

log = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class ServerConfig:
    """Where a service listens, whom it serves and what it accepts.

    Attributes:
        identity: architecture, classes and normalisation that students must have.
        limits: what is accepted.
        token: on every call.
        host: address to listen on.
        port: 0 takes a free one.
        tls: see `tls_context`; None serves without.
        device: for the status.
    """

    identity: protocol.Identity
    limits: Limits
    token: str
    host: str = "127.0.0.1"
    port: int = 0
    tls: ssl.SSLContext | None = None
    device: str = "cpu"


class TeacherServer(fl.FlightServerBase):  # type: ignore[misc]
    """One teacher on one port; it serves from construction on.

    Args:
        batcher: owns the network; started here.
        config: where it listens and what it accepts.

    Attributes:
        intake: takes the weights that students publish.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(self, batcher: Batcher, config: ServerConfig) -> None:
        """Listen and start the batcher."""
        self._batcher, self._config, self.intake = batcher, config, WeightsIntake(batcher)
        self._rejections = RejectionLog()
        scale = config.identity["architecture"].get("scale") or {}  # left out of 3 bands of uint8
        self._bands = int(scale.get("bands", 3))
        # Calls come on threads of the library; each waits here for another's change of the set of streams only.
        self._lock = threading.Lock()
        self._streams: set[AnswerStream] = set()
        self._memory = MemoryBudget(MOST_BYTES)
        listener = listen(config.host, config.port)
        self._port: int = listener.getsockname()[1]
        # The library logs each malformed call, without a limit; what matters of them is logged here, once.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        # Of mode 0700: what listens in there only this user can reach.
        self._folder = tempfile.TemporaryDirectory(prefix="mkd-teacher-", dir=_short_folder())
        backend = Path(self._folder.name) / "grpc"
        batcher.start()
        super().__init__(
            f"grpc+unix://{backend}",
            middleware={"token": TokenCheck(config.token, self._rejections)},
        )
        self._proxy = AuthProxy(Door(listener, backend, config.token, config.tls), self._rejections)
        if config.tls is None and not is_loopback(config.host):
            log.warning(
                "the token and the images travel unencrypted; give tls_cert= and tls_key= on a shared network"
            )

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._port

    def do_exchange(self, context: Any, descriptor: fl.FlightDescriptor, reader: Any, writer: Any) -> None:
        """Answer one stream of requests."""
        with guarded(self._rejections, context, "requests"):
            content = protocol.unpack(descriptor.command)
            self._check_identity(content)
            of_floats = content["protocol"] in (
                protocol.FLOAT_PROTOCOL,
                protocol.FLOAT_PROTOCOL + protocol.VIEWS,
            )
            bands = self._bands if of_floats else None
            size = protocol.tile_size(reader.schema, self._config.limits.max_tile, bands)
            with self._stream(writer, *size, _client(content)) as stream:
                for chunk in reader:
                    job = self._job(chunk, stream)
                    if not stream.add(job):
                        return
                    self._batcher.put(job)

    def _job(self, chunk: Any, stream: AnswerStream) -> QueuedRequest:
        ask = protocol.read_request(chunk.app_metadata)
        batch = protocol.whole(chunk.data, self._config.limits.max_batch)
        return QueuedRequest(ask, protocol.tensor_of(batch.column(0)), stream)

    @contextlib.contextmanager
    def _stream(self, writer: Any, height: int, width: int, client: str) -> Iterator[AnswerStream]:
        """Count an open stream; at the end its last answers are written."""
        with self._lock:
            if len(self._streams) >= MOST_STREAMS:
                raise protocol.Busy(f"{MOST_STREAMS} streams are open; more are not served")
            stream = AnswerStream(writer, height, width, self._config.limits.queue, self._memory, client)
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
        with guarded(self._rejections, context, "weights"):
            content = protocol.unpack(descriptor.command)
            self._check_identity(content)
            self.intake.receive(content, reader)
            writer.write(pa.py_buffer(protocol.pack(self._batcher.newest())))

    def do_action(self, context: Any, action: fl.Action) -> Iterator[fl.Result]:
        """Answer ``hello`` (may this student ask, and whose weights are here), ``bye`` and ``status``."""
        with guarded(self._rejections, context, "action"):
            if action.type in ("hello", "bye"):
                content = protocol.unpack(action.body)
                self._check_identity(content)
                self.intake.hear(content.get("job"), leaves=action.type == "bye")
                return iter([fl.Result(protocol.pack(self._hello(_client(content))))])
            if action.type == "status":
                return iter([fl.Result(json.dumps(self.status()).encode())])
            raise protocol.ProtocolError("an action other than hello, bye and status")

    def _hello(self, client: str) -> dict[str, Any]:
        newest, busy_s = self._batcher.newest(), self._batcher.busy_s()
        stopping = self._batcher.stopping.is_set()
        sizes = {"max_batch": self._config.limits.max_batch, "max_tile": self._config.limits.max_tile}
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
            "device": self._config.device,
            "stopping": self._batcher.stopping.is_set(),
            "busy_s": self._batcher.busy_s(),
            "refused": dict(self._rejections.counts),
            **self._batcher.gauge.read(),
        }

    def _check_identity(self, content: dict[str, Any]) -> None:
        if content.get("protocol") not in protocol.PROTOCOLS:
            raise protocol.ProtocolError(
                f"protocol {content.get('protocol')} at the student, {protocol.PROTOCOL} here; install the same mkd"
            )
        asked = content.get("identity")
        if differs := protocol.differences(asked if isinstance(asked, dict) else {}, self._config.identity):
            raise protocol.ProtocolError(
                f"another network: {differs}; start the teacher from the student's semi.start"
            )

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
        self._proxy.stop_accepting()
        # The library's shutdown waits for calls, which may never end: the wait for it has a limit.
        closing = threading.Thread(target=self.shutdown, daemon=True)
        closing.start()
        closing.join(max(0.0, until - time.monotonic()))
        all_gone = not closing.is_alive()
        self._proxy.close()
        self._folder.cleanup()
        return all_gone


def _short_folder() -> str:
    """Return the folder for temporary files, or /tmp where that one's path will not do for a unix socket."""
    usual = tempfile.gettempdir()
    return usual if PLAIN_FOLDER.fullmatch(usual) else "/tmp"


def _client(content: dict[str, Any]) -> str:
    """Return the name that a student gives its connection; it need not have one."""
    return protocol.word({"client": "", **content}, "client")
