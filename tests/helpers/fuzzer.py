"""Malformed messages to a teacher service, one call each, from the socket up to Arrow and JSON."""

import socket
import time
from collections import Counter
from dataclasses import asdict

import grpc
import numpy as np
import pyarrow as pa

from mkd.teacher import weights, wire
from tests.helpers.nets import tiny_net
from tests.helpers.teachers import IDENTITY, weak_views

TOKEN = "0123456789abcdef"
SERVICE = "/arrow.flight.protocol.FlightService/"


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


class Fuzzer:
    """Makes and sends one malformed message after another.

    Args:
        endpoint: of the service.
        seed: of everything random.
    """

    def __init__(self, endpoint, seed):
        self.endpoint, self.rng = endpoint, np.random.default_rng(seed)
        self.counts, self.answers = Counter(), Counter()
        hello = {"protocol": wire.PROTOCOL, "identity": IDENTITY}
        self.opening = wire.pack(hello)
        self.ask = asdict(wire.Ask(1, 0.4, 1.0, "fuzz.0", 0))
        images = weak_views()
        schema = wire.image_schema(6, 5)
        batch = pa.record_batch([wire.tensor_column(images, schema.field(0).type)], schema=schema)
        self.schema = split(schema.serialize())[0]
        self.batch = split(batch.serialize())
        packed = pa.ipc.IpcWriteOptions(compression="zstd")
        wide = pa.record_batch(
            [wire.tensor_column(weak_views(size=(64, 64)) * 0, wire.image_schema(64, 64).field(0).type)],
            schema=wire.image_schema(64, 64),
        )
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, wide.schema, options=packed) as writer:
            writer.write_batch(wide)
        raw = stream.getvalue().to_pybytes()
        first = 8 + int.from_bytes(raw[4:8], "little")
        self.wide_schema = split(wide.schema.serialize())[0]
        self.zipped = split(raw[first:])
        header = wire.Header("fuzz.0", 1, 1)
        blob = weights.to_bytes(
            dict(tiny_net(classes=4).state_dict()), header
        )  # another network: never taken up
        self.parcel = {
            **hello, "header": asdict(header), "bytes": len(blob), "sha256": weights.digest(blob), "takes": True
        }  # fmt: skip
        column = pa.array(np.frombuffer(blob, np.uint8))
        self.blob = split(pa.record_batch([column], schema=wire.WEIGHTS_SCHEMA).serialize())
        self.kinds = [getattr(self, name) for name in sorted(dir(self)) if name.startswith("send_")]
        self._connect()

    def _connect(self):
        self.channel = grpc.insecure_channel(
            self.endpoint,
            options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)],
        )

    def __call__(self):
        """Send one message; an answer that is not an error is counted too."""
        kind = self.kinds[self.rng.integers(len(self.kinds))]
        self.counts[kind.__name__[5:]] += 1
        if sum(self.counts.values()) % 5000 == 0:
            self.channel.close()
            self._connect()
        try:
            kind()
            self.answers["no error"] += 1
        except grpc.RpcError as error:
            self.answers[error.code().name] += 1
        except OSError as error:
            self.answers[type(error).__name__] += 1

    def call(self, method, messages, token=TOKEN):
        """Send raw messages and read until the call ends."""
        headers = [("authorization", f"Bearer {token}")] if token else []
        call = self.channel.stream_stream(SERVICE + method)(iter(messages), metadata=headers, timeout=20)
        for _ in call:
            pass

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
        values = [None, -1, 2**70, 1e308, float("nan"), "x" * 100, [], {}, [[1] * 50] * 3, True, "\ud800", ""]
        return values[self.rng.integers(len(values))]

    # Below gRPC.

    def send_socket_noise(self):
        """Random bytes, as a port scan sends them."""
        self._socket(self.noise())

    def send_http2_noise(self):
        """A right greeting and settings, then random frames."""
        self._socket(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" + self.noise())

    def send_http_request(self):
        """What a browser or scanner asks."""
        self._socket(b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % self.noise(20).hex().encode())

    def _socket(self, raw):
        host, _, port = self.endpoint.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=5) as one:
            one.sendall(raw)

    # Wrong tokens.

    def send_wrong_token(self):
        """A right request with a wrong token or none."""
        token = [None, "", "wrong", TOKEN[:-1], TOKEN + "x", "x" * 8000][self.rng.integers(6)]
        method = ["DoExchange", "DoPut", "DoAction", "ListFlights"][self.rng.integers(4)]
        self.call(method, self._request(), token)

    # Protobufs.

    def send_random_protobuf(self):
        """Random bytes in each kind of call."""
        methods = [
            "DoExchange",
            "DoPut",
            "DoAction",
            "DoGet",
            "GetFlightInfo",
            "Handshake",
            "ListActions",
            "Nothing",
        ]
        self.call(
            methods[self.rng.integers(len(methods))], [self.noise() for _ in range(self.rng.integers(1, 4))]
        )

    def send_broken_protobuf(self):
        """A right stream, one of whose protobufs is damaged."""
        messages = self._request()
        at = int(self.rng.integers(len(messages)))
        messages[at] = self.broken(messages[at])
        self.call("DoExchange", messages)

    def send_odd_action(self):
        """Unknown actions, and known ones with any body."""
        name = [b"hello", b"status", b"stop", b"", self.noise(20).hex().encode()][self.rng.integers(5)]
        body = [self.noise(), self.broken(self.opening), b"[" * 5000, b"x" * 70000][self.rng.integers(4)]
        if name != b"status":
            self.call("DoAction", [field(1, name) + field(2, body)])

    # Arrow.

    def _request(self, schema=None, batch=None, ask=None, opening=None):
        header, body = batch or self.batch
        note = wire.pack(self.ask) if ask is None else ask
        first = flight_data(schema or self.schema, command=opening or self.opening)
        return [first, flight_data(header, body, note)]

    def send_broken_schema(self):
        """A schema message with wrong bytes."""
        self.call("DoExchange", self._request(schema=self.broken(self.schema)))

    def send_broken_header(self):
        """A batch message with wrong bytes: counts, offsets, lengths, types."""
        header, body = self.batch
        self.call("DoExchange", self._request(batch=(self.broken(header), body)))

    def send_broken_body(self):
        """A body that is shorter or longer than the batch says."""
        header, body = self.batch
        body = [b"", body[: self.rng.integers(len(body))], body + self.noise()][self.rng.integers(3)]
        self.call("DoExchange", self._request(batch=(header, body)))

    def send_broken_compression(self):
        """A compressed body with a wrong length or wrong bytes."""
        header, body = self.zipped
        self.call("DoExchange", self._request(self.wide_schema, (header, self.broken(body))))

    def send_other_schema(self):
        """Right Arrow, but not a request's columns."""
        kinds = [pa.uint8(), pa.utf8(), pa.list_(pa.float64()), pa.fixed_shape_tensor(pa.uint8(), [3, 2000, 2000]),
                 pa.fixed_shape_tensor(pa.int64(), [3, 6, 5]), pa.dictionary(pa.int8(), pa.utf8())]  # fmt: skip
        names = ["images", "labels", "", "x" * 50]
        chosen = [
            (names[self.rng.integers(4)], kinds[self.rng.integers(6)]) for _ in range(self.rng.integers(0, 4))
        ]
        self.call("DoExchange", self._request(schema=split(pa.schema(chosen).serialize())[0]))

    def send_odd_rows(self):
        """No tile, or more than are taken."""
        rows = [0, 17, 100][self.rng.integers(3)]
        schema = wire.image_schema(6, 5)
        column = wire.tensor_column(weak_views(batch=max(1, rows)), schema.field(0).type)
        batch = pa.record_batch([column], schema=schema).slice(0, rows)
        self.call("DoExchange", self._request(batch=split(batch.serialize())))

    def send_odd_ask(self):
        """A field of a request's JSON that is missing or of a wrong kind, and JSON that is none."""
        ask = dict(self.ask)
        key = list(ask)[self.rng.integers(len(ask))]
        if self.rng.integers(2):
            del ask[key]
        else:
            ask[key] = self.odd()
        note = wire.pack(ask) if self.rng.integers(4) else self.broken(wire.pack(ask))
        self.call("DoExchange", self._request(ask=note))

    def send_odd_opening(self):
        """Another network or protocol, or no JSON at the start of a stream."""
        content = {"protocol": wire.PROTOCOL, "identity": {**IDENTITY, "classes": self.odd()}}
        opening = [wire.pack(content), wire.pack({"protocol": self.odd()}), self.noise()][
            self.rng.integers(3)
        ]
        self.call("DoExchange", self._request(opening=opening))

    def send_message_out_of_turn(self):
        """A batch before its schema, two schemas, a message without content."""
        first, second = self._request()
        orders = [
            [second],
            [second, first],
            [first, first],
            [first, flight_data()],
            [first, second, first],
            [],
        ]
        self.call("DoExchange", orders[self.rng.integers(len(orders))])

    def send_left_open(self):
        """A stream that is dropped in the middle."""

        def messages():
            yield from self._request()[: self.rng.integers(1, 3)]
            time.sleep(20)

        headers = [("authorization", f"Bearer {TOKEN}")]
        call = self.channel.stream_stream(SERVICE + "DoExchange")(messages(), metadata=headers, timeout=0.05)
        for _ in call:
            pass

    # Weights.

    def send_odd_parcel(self):
        """An announcement of weights with a wrong field."""
        parcel = dict(self.parcel)
        key = list(parcel)[self.rng.integers(len(parcel))]
        parcel[key] = self.odd()
        self._put(wire.pack(parcel), [self.blob])

    def send_broken_weights(self):
        """Weights that are damaged, cut off, doubled or of another network."""
        header, body = self.blob
        pieces = [
            [(header, self.broken(body))],
            [],
            [self.blob, self.blob],
            [self.blob],
            [(self.broken(header), body)],
        ]
        self._put(wire.pack(self.parcel), pieces[self.rng.integers(len(pieces))])

    def _put(self, command, pieces):
        schema = split(wire.WEIGHTS_SCHEMA.serialize())[0]
        first = flight_data(schema, command=command)
        self.call("DoPut", [first, *(flight_data(h, b) for h, b in pieces)])
