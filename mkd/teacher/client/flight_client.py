"""The calls that a student makes to one teacher, each with a time limit, each error with its meaning."""

import os
import secrets
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.flight as fl
import torch

from mkd.cli.printable import printable
from mkd.semi.entropy import PseudoLabels
from mkd.teacher import protocol
from mkd.teacher.auth import call_headers
from mkd.teacher.client.publisher import Packet

CHUNK = 1 << 22  # bytes of weights in one message
SLOWEST = 5e7  # bytes/s below which sending is given up
# The server ends a stream whose student is gone without a word, a node without power say, after this time at most. It
# has no other way to notice, so streams get a deadline, and a student opens a new one ahead of it.
STREAM_SECONDS = 3600.0
# Without a subchannel pool of its own a client inherits the back-off of earlier ones, up to two minutes.
CHANNEL = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
Lost = (fl.FlightError, pa.ArrowException, OSError)


class Refused(ValueError):
    """The teacher will not serve this student; the sentence says why."""


@dataclass(frozen=True)
class Access:
    """How to reach teachers.

    Attributes:
        identity: of the student's network; None where only the status is asked.
        job: the student job, see `WeightsVersion.owner`; its hellos tell a teacher that it lives.
        token: on every call, or None.
        tls_roots: certificates to trust, PEM; None connects without TLS.
        timeout: seconds after which a silent call is given up. A teacher on a CPU that others use too may need some
            for a hello; given up in vain, its batches are computed twice.
        bands: of the tiles, of float32; None: tiles of 3 bands of uint8.
        views: requests name views other than the tile as it is.
    """

    identity: protocol.Identity | None
    token: str | None
    tls_roots: bytes | None = None
    timeout: float = 20.0
    job: str = ""
    bands: int | None = None
    views: bool = False


@dataclass(frozen=True)
class Hello:
    """What a teacher says to a student that it will serve.

    Attributes:
        header: whose weights it has.
        max_batch: tiles in one request.
        max_tile: side of a tile, pixels.
        stopping: it takes no more requests.
        busy_s: seconds since it began the batch that it works on; 0 between batches.
        pending: requests of this connection that it has read and not answered.
    """

    header: protocol.WeightsVersion
    max_batch: int
    max_tile: int
    stopping: bool
    busy_s: float
    pending: int


class FlightClient:
    """One connection to one endpoint, made at the first call.

    Args:
        endpoint: HOST:PORT.
        access: how to reach it.
    """

    def __init__(self, endpoint: str, access: Access) -> None:
        """Connect lazily."""
        self._access, self._name = access, secrets.token_hex(8)
        tls = access.tls_roots
        where = f"grpc{'' if tls is None else '+tls'}://{endpoint}"
        self._client = fl.connect(where, tls_root_certs=tls, generic_options=CHANNEL)

    def hello(self) -> Hello:
        """Introduce the student.

        Raises:
            Refused: another network, a wrong token, or no teacher.
        """
        content = self._action("hello", protocol.pack(self._introduction()))
        header = protocol.read_weights_version(content)
        limits = [protocol.integer(content, key, 1) for key in ("max_batch", "max_tile")]
        busy_s = protocol.number(content, "busy_s", 0, 1e12)
        stopping, pending = bool(content.get("stopping")), protocol.integer(content, "pending")
        return Hello(header, limits[0], limits[1], stopping, busy_s, pending)

    def bye(self) -> None:
        """Leave: another student job may have the teacher at once."""
        self._action("bye", protocol.pack(self._introduction()))

    def status(self) -> dict[str, Any]:
        """Return the teacher's status."""
        return self._action("status", b"")

    def _action(self, name: str, body: bytes) -> dict[str, Any]:
        try:
            results = list(self._client.do_action(fl.Action(name, body), self._options(self._access.timeout)))
            return protocol.unpack(results[0].body if results else None)
        except protocol.ProtocolError as error:
            raise Refused(f"no teacher ({printable(error)})") from None
        except Lost as error:
            raise meaning(error) from None

    def publish(self, packet: Packet) -> protocol.WeightsVersion:
        """Send weights; return whose weights the teacher has then.

        Raises:
            Refused: the weights do not fit.
            OSError: they are not taken now, because another student job has the teacher, say.
        """
        content = {"header": vars(packet.header), "bytes": len(packet.blob), "sha256": packet.sha256}
        descriptor = fl.FlightDescriptor.for_command(protocol.pack({**content, **self._introduction()}))
        options = self._options(self._access.timeout + len(packet.blob) / SLOWEST)
        whole = pa.py_buffer(packet.blob)
        try:
            writer, answers = self._client.do_put(descriptor, protocol.WEIGHTS_SCHEMA, options)
            with writer:
                for start in range(0, len(packet.blob), CHUNK):
                    piece = whole.slice(start, min(CHUNK, len(packet.blob) - start))
                    column = pa.Array.from_buffers(pa.uint8(), piece.size, [None, piece])
                    writer.write_batch(pa.record_batch([column], schema=protocol.WEIGHTS_SCHEMA))
                writer.done_writing()
                return protocol.read_weights_version(protocol.unpack(answers.read()))
        except protocol.ProtocolError as error:
            raise OSError(f"an answer that cannot be read ({printable(error)})") from None
        except Lost as error:
            raise meaning(error) from None

    def open(self, height: int, width: int) -> tuple[Any, Any]:
        """Return writer and reader of a request stream of this tile size."""
        descriptor = fl.FlightDescriptor.for_command(protocol.pack(self._introduction()))
        writer, reader = self._client.do_exchange(descriptor, self._options(STREAM_SECONDS))
        writer.begin(protocol.image_schema(height, width, self._access.bands))
        return writer, reader

    def _introduction(self) -> dict[str, Any]:
        own = {"client": self._name, "job": self._access.job}
        version = protocol.PROTOCOL if self._access.bands is None else protocol.FLOAT_PROTOCOL
        version += protocol.VIEWS * self._access.views
        return {"protocol": version, "identity": self._access.identity, **own}

    def _options(self, timeout: float) -> fl.FlightCallOptions:
        return fl.FlightCallOptions(timeout=timeout, headers=call_headers(self._access.token))


def meaning(error: Exception) -> Exception:
    """Return what an error of a call means: a refusal by the teacher, or a short reason why it is of no use now.

    Whoever answers chooses the words; nothing in them acts on a terminal.
    """
    if isinstance(error, fl.FlightUnauthenticatedError):
        return Refused(
            "the token is missing or wrong; give teacher.token_file (a teacher of run=RUN has RUN.token) "
            "or MKD_TEACHER_TOKEN"
        )
    if sentence := getattr(error, "extra_info", None):
        return Refused(printable(sentence.decode(errors="replace"), 2000))
    if isinstance(error, fl.FlightTimedOutError):
        return OSError("it does not answer in time")
    if isinstance(error, fl.FlightUnavailableError):
        halfway = "connect" in str(error) and any(t in str(error) for t in ("Socket closed", "handshake"))
        hint = " (TLS on one side only, or a certificate that tls_ca= does not know?)" if halfway else ""
        return OSError(f"it cannot be reached{hint}")
    text = str(error).partition(". gRPC client debug")[0].partition(". Detail:")[0]
    if not isinstance(error, (*Lost, protocol.ProtocolError)):
        text = f"{type(error).__name__}: {text}"
    return OSError(printable(text, 200) or os.strerror(5))


def read_answer(chunk: Any, tiles: int, height: int, width: int) -> tuple[PseudoLabels, float]:
    """Return the labels in an answer, on the CPU, and the sum over its tiles of the share of kept pixels.

    Raises:
        ProtocolError: it is not the answer of so many tiles (H,W).
    """
    batch = protocol.whole(chunk.data, tiles)
    if batch.num_rows != tiles or not batch.schema.equals(protocol.answer_schema(height, width)):
        raise protocol.ProtocolError("an answer to another request")
    if any(batch.column(n).null_count for n in (1, 2, 3)):
        raise protocol.ProtocolError("an answer with missing values")
    score, kept, accepted = (
        torch.from_numpy(batch.column(n).to_numpy(zero_copy_only=False).copy()) for n in (1, 2, 3)
    )
    version = protocol.read_reply(chunk.app_metadata).updates
    return PseudoLabels(protocol.tensor_of(batch.column(0)), score, accepted, version), float(kept.sum())
