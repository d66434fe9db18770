"""What malformed messages are made of: right ones, and ways to break them."""

from dataclasses import asdict

import numpy as np
import pyarrow as pa

from mkd.teacher import protocol, weights
from tests.helpers.teacher.services import IDENTITY, weak_views
from tests.helpers.training.nets import tiny_net


def field(number, content):
    """Return a length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def flight_data(header=b"", body=b"", metadata=b"", command=None):
    """Return a FlightData protobuf."""
    descriptor = b"" if command is None else field(1, b"\x08\x02" + field(2, command))
    return descriptor + field(2, header) + field(3, metadata) + field(1000, body)


def split(buffer):
    """Return header and body of an encapsulated Arrow message."""
    raw = bytes(buffer)
    size = int.from_bytes(raw[4:8], "little")
    return raw[8 : 8 + size], raw[8 + size :]


class Material:
    """The parts of right messages, and ways to break them.

    Args:
        seed: of everything random.
    """

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        hello = {"protocol": protocol.PROTOCOL, "identity": IDENTITY}
        self.opening = protocol.pack(hello)
        self.ask = asdict(protocol.Request(1, 0.4, 1.0, "fuzz.0", 0))
        images = weak_views()
        schema = protocol.image_schema(6, 5)
        batch = pa.record_batch([protocol.tensor_column(images, schema.field(0).type)], schema=schema)
        self.schema = split(schema.serialize())[0]
        self.batch = split(batch.serialize())
        packed = pa.ipc.IpcWriteOptions(compression="zstd")
        wide = pa.record_batch(
            [
                protocol.tensor_column(
                    weak_views(size=(64, 64)) * 0, protocol.image_schema(64, 64).field(0).type
                )
            ],
            schema=protocol.image_schema(64, 64),
        )
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, wide.schema, options=packed) as writer:
            writer.write_batch(wide)
        raw = stream.getvalue().to_pybytes()
        first = 8 + int.from_bytes(raw[4:8], "little")
        self.wide_schema = split(wide.schema.serialize())[0]
        self.zipped = split(raw[first:])
        header = protocol.WeightsVersion("fuzz.0", 1, 1)
        blob = weights.to_bytes(
            dict(tiny_net(classes=4).state_dict()), header
        )  # another network: never taken up
        about = {"header": asdict(header), "bytes": len(blob), "sha256": weights.digest(blob)}
        self.parcel = {**hello, **about}
        column = pa.array(np.frombuffer(blob, np.uint8))
        self.blob = split(pa.record_batch([column], schema=protocol.WEIGHTS_SCHEMA).serialize())

    def request(self, schema=None, batch=None, ask=None, opening=None):
        header, body = batch or self.batch
        note = protocol.pack(self.ask) if ask is None else ask
        first = flight_data(schema or self.schema, command=opening or self.opening)
        return [first, flight_data(header, body, note)]

    def noise(self, most=300):
        return self.rng.bytes(int(self.rng.integers(0, most)))

    def broken(self, raw):
        """Return bytes with some flipped, cut off, doubled, put in or set to extremes."""
        out = bytearray(raw)
        for _ in range(int(self.rng.integers(1, 4))):
            at = int(self.rng.integers(0, len(out) + 1))
            match self.rng.integers(5):
                case 0 if at < len(out):
                    out[at] ^= 1 << int(self.rng.integers(8))
                case 1:
                    del out[at:]
                case 2:
                    out[at:at] = self.noise(40)
                case 3:
                    out[at : at + 8] = [b"\xff" * 8, b"\x7f" + b"\xff" * 7, bytes(8)][self.rng.integers(3)]
                case _:
                    out[at:at] = out[at : at + 16]
        return bytes(out)

    def odd(self):
        """Return a JSON value of some unfitting kind."""
        values = [
            None,
            -1,
            2**70,
            10**400,
            1e308,
            float("nan"),
            "x" * 100,
            [],
            {},
            [[1] * 50] * 3,
            True,
            "\ud800",
            "",
        ]
        return values[self.rng.integers(len(values))]
