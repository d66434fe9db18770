"""What travels between students and teachers: Arrow record batches with small JSON beside them; no pickle.

One DoExchange stream carries requests of one tile size. Every message is checked before anything is allocated for
it: what does not fit raises ProtocolError with one sentence.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import pyarrow as pa
import torch
from torch import Tensor

from mkd.models.symmetry import SYMMETRIES

PROTOCOL = 2  # tiles of 3 bands of uint8
FLOAT_PROTOCOL = 3  # tiles of float32, of any bands, NaN where a pixel is missing; the rest is that of 2
VIEWS = 2  # added to either by students whose requests name views; a service of before refuses them
PROTOCOLS = (PROTOCOL, FLOAT_PROTOCOL, PROTOCOL + VIEWS, FLOAT_PROTOCOL + VIEWS)
MAX_JSON = 1 << 16  # bytes
OK, BEHIND, STOPPING, FAILED = "ok", "behind", "stopping", "failed"
Identity = dict[str, Any]
WEIGHTS_SCHEMA = pa.schema([("bytes", pa.uint8())])


class ProtocolError(ValueError):
    """A message that is not what the protocol says."""


class Busy(ProtocolError):
    """A right message that cannot be served now; it may be sent again."""


@dataclass(frozen=True)
class Request:
    """JSON beside a request's images.

    Attributes:
        id: the student's number of the request.
        confidence: pixel threshold in [0,1].
        limit: tau of the tile filter in [0,1].
        session: whose weights must answer.
        min_version: oldest version that may answer.
        views: none | flips | d4: symmetries of each image whose predictions are averaged.
    """

    id: int
    confidence: float
    limit: float
    session: str
    min_version: int
    views: str = "none"


@dataclass(frozen=True)
class Reply:
    """JSON beside an answer.

    Attributes:
        id: of the request; -1 for a notice to all of a stream.
        status: ok; behind (older weights than asked for), stopping, failed: no labels come, ask again.
        session: of the teacher's weights.
        version: of the teacher's weights.
        updates: EMA updates that these weights had seen.
        reason: a sentence for people where the status is failed.
    """

    id: int
    status: str
    session: str
    version: int
    updates: int
    reason: str = ""


@dataclass(frozen=True)
class WeightsVersion:
    """Whose weights these are; it travels with them and is in their file.

    Attributes:
        session: one start of a student job, OWNER.N; N counts its returns to an earlier state.
        version: number of the publication, from 0.
        updates: EMA updates that the weights have seen.
    """

    session: str
    version: int
    updates: int

    @property
    def owner(self) -> str:
        """The student job's part of the session."""
        return self.session.partition(".")[0]

    def covers(self, other: "WeightsVersion") -> bool:
        """Return whether these weights are of the other's session and as new as they."""
        return self.session == other.session and self.version >= other.version


@dataclass(frozen=True)
class WeightsHeader:
    """JSON before published weights.

    Attributes:
        header: whose they are.
        bytes: length of the safetensors file.
        sha256: of the file, hex.
    """

    header: WeightsVersion
    bytes: int
    sha256: str


def identity(architecture: dict[str, Any], classes: Sequence[str]) -> Identity:
    """Return what student and teacher must have in common: architecture, classes, normalisation.

    Args:
        architecture: fields of the network's plan; ``mean`` and ``std`` in it are the normalisation.
        classes: class names in order.
    """
    fields = cast(dict[str, Any], json.loads(json.dumps(architecture)))
    normalisation = {k: fields.pop(k) for k in ("mean", "std") if k in fields}
    return {"architecture": fields, "classes": list(classes), "normalisation": normalisation}


def differences(student: Identity, teacher: Identity) -> str:
    """Return what differs, with both values; empty when nothing does."""
    pairs = [("classes", student.get("classes"), teacher["classes"])]
    for part, of in (("architecture", ""), ("normalisation", "normalisation ")):
        mine, theirs = student.get(part), teacher[part]
        mine = mine if isinstance(mine, dict) else {}
        pairs += [(of + k, mine.get(k), theirs.get(k)) for k in sorted({*mine, *theirs})]
    return "; ".join(f"{k} {_short(a)} at the student, {_short(b)} here" for k, a, b in pairs if a != b)


def _short(value: Any) -> str:
    text = f"{len(value)} ({', '.join(map(str, value))})" if _names(value) else str(value)
    return text if len(text) <= 300 else text[:300] + " ..."


def _names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def pack(content: Any) -> bytes:
    """Return a message part as JSON bytes; dataclasses become objects."""
    given = dict(content if isinstance(content, dict) else asdict(content))
    if given.get("views") == "none":  # not said, so that the message is that of protocols 2 and 3
        del given["views"]
    return json.dumps(given).encode()


def unpack(raw: Any) -> dict[str, Any]:
    """Return the JSON object in bytes or an Arrow buffer."""
    size = 0 if raw is None else raw.size if isinstance(raw, pa.Buffer) else len(raw)
    if not 0 < size <= MAX_JSON:
        raise ProtocolError(f"a JSON part of {size} bytes; 1 to {MAX_JSON} are allowed")
    try:
        content = json.loads(bytes(raw))
    except (ValueError, RecursionError):
        raise ProtocolError("a JSON part that is no JSON") from None
    if not isinstance(content, dict):
        raise ProtocolError("a JSON part that is no object")
    return content


def number(content: dict[str, Any], key: str, low: float, high: float) -> float:
    """Return a finite number in [low, high]."""
    value = content.get(key)
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    # NaN is in no range; a whole number may be beyond any float.
    if not good or not low <= cast(float, value) <= high:
        raise ProtocolError(f"{key}={_short(value)}; a number in [{low}, {high}] is allowed")
    return cast(float, value)


def integer(content: dict[str, Any], key: str, low: int = 0, high: int = 2**53) -> int:
    """Return a whole number in [low, high]."""
    value = number(content, key, low, high)
    if not isinstance(value, int):
        raise ProtocolError(f"{key}={value}; a whole number is allowed")
    return value


def word(content: dict[str, Any], key: str, longest: int = 80) -> str:
    """Return a text of at most so many characters."""
    value = content.get(key)
    if not isinstance(value, str) or len(value) > longest:
        raise ProtocolError(f"{key}={_short(value)}; a text of at most {longest} characters is allowed")
    return value


def read_request(raw: Any) -> Request:
    """Return the checked JSON beside a request."""
    c = unpack(raw)
    confidence, limit = (float(number(c, k, 0, 1)) for k in ("confidence", "limit"))
    views = word(c, "views") if "views" in c else "none"  # a student of before does not send it
    if views not in SYMMETRIES:
        raise ProtocolError(f"views={views}; one of {', '.join(SYMMETRIES)} is allowed")
    return Request(integer(c, "id"), confidence, limit, word(c, "session"), integer(c, "min_version"), views)


def read_reply(raw: Any) -> Reply:
    """Return the checked JSON beside an answer."""
    c = unpack(raw)
    header = read_weights_version(c)
    reason = word(c, "reason", 2000)
    return Reply(
        integer(c, "id", -1), word(c, "status"), header.session, header.version, header.updates, reason
    )


def read_weights_version(c: dict[str, Any]) -> WeightsVersion:
    """Return session, version and updates of a JSON object."""
    return WeightsVersion(word(c, "session"), integer(c, "version"), integer(c, "updates"))


def read_weights_header(c: dict[str, Any], most: int) -> WeightsHeader:
    """Return the checked JSON before weights of at most so many bytes."""
    header = c.get("header")
    if not isinstance(header, dict):
        raise ProtocolError("weights without header")
    size = integer(c, "bytes", 1, most)
    return WeightsHeader(read_weights_version(header), size, word(c, "sha256", 64))


def image_schema(height: int, width: int, bands: int | None = None) -> pa.Schema:
    """Return the schema of requests: uint8 tiles (3,H,W), or with ``bands`` float32 tiles (bands,H,W)."""
    kind = pa.uint8() if bands is None else pa.float32()
    return pa.schema([("images", pa.fixed_shape_tensor(kind, [bands or 3, height, width]))])


def float_bands(images: Tensor) -> int | None:
    """Return the bands of float32 tiles (B,bands,H,W), None of uint8 ones: see `image_schema`."""
    return None if images.dtype == torch.uint8 else images.shape[1]


def answer_schema(height: int, width: int) -> pa.Schema:
    """Return the schema of answers: labels uint8 (H,W), score, kept share, accepted."""
    labels = pa.fixed_shape_tensor(pa.uint8(), [height, width])
    plain = [("score", pa.float32()), ("kept", pa.float32()), ("accepted", pa.bool_())]
    return pa.schema([("labels", labels), *plain])


def tile_size(schema: pa.Schema, max_tile: int, bands: int | None = None) -> tuple[int, int]:
    """Return H, W of a request stream, or raise ProtocolError; ``bands`` of float32 tiles, None of uint8 ones."""
    wanted = "uint8 tensors (3,H,W)" if bands is None else f"float32 tensors ({bands},H,W)"
    kind = schema.field(0).type if len(schema) == 1 else None
    if not isinstance(kind, pa.FixedShapeTensorType) or len(kind.shape) != 3:
        raise ProtocolError(f"a request stream has one column of {wanted}, this one has not")
    _, height, width = kind.shape
    if min(height, width) < 1 or max(height, width) > max_tile:
        raise ProtocolError(
            f"tiles of {height} x {width} pixels; sides of 1 to max_tile={max_tile} are allowed"
        )
    if not schema.equals(image_schema(height, width, bands)):
        raise ProtocolError(f"a request stream has one column images of {wanted}, this one has not")
    return height, width


def tensor_column(array: Tensor, kind: Any) -> pa.Array:
    """Wrap a uint8 or float32 CPU tensor (B,...) as a column, a contiguous one without a copy."""
    flat = array.contiguous().numpy().reshape(-1)
    values = pa.Array.from_buffers(kind.value_type, flat.size, [None, pa.py_buffer(flat)])
    storage = pa.FixedSizeListArray.from_arrays(values, math.prod(array.shape[1:]))
    return pa.ExtensionArray.from_storage(kind, storage)


def tensor_of(column: pa.Array) -> Tensor:
    """Return a checked tensor column as uint8 or float32 (B,...) on the bytes that arrived; nobody may write to it."""
    if column.null_count or column.storage.values.null_count:
        raise ProtocolError("tensors with missing values")
    array = column.to_numpy_ndarray()
    return torch.from_numpy(array if array.flags.writeable else array.copy())  # what arrives is writable


def whole(batch: pa.RecordBatch | None, most: int) -> pa.RecordBatch:
    """Return a batch of 1 to ``most`` rows whose buffers hold what it says, or raise ProtocolError."""
    if batch is None:
        raise ProtocolError("a message without data")
    if not 1 <= batch.num_rows <= most:
        raise ProtocolError(f"a batch of {batch.num_rows} rows; 1 to {most} are allowed")
    try:
        batch.validate(full=True)
    except pa.ArrowException as error:
        raise ProtocolError(f"a damaged batch ({_short(str(error))})") from None
    return batch
