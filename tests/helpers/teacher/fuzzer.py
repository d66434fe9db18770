"""Malformed messages to a teacher service, one call each, from the socket up to Arrow and JSON."""

import socket
import time
from collections import Counter

import grpc
import pyarrow as pa

from mkd.teacher import protocol
from tests.helpers.teacher.fuzz_material import Material, field, flight_data, split
from tests.helpers.teacher.services import IDENTITY, TOKEN, weak_views

SERVICE = "/arrow.flight.protocol.FlightService/"


class Caller(Material):
    """Sends one message after another to a service, and counts what kinds and how they end.

    Args:
        endpoint: of the service.
        seed: of everything random.
    """

    def __init__(self, endpoint, seed):
        super().__init__(seed)
        self.endpoint = endpoint
        self.counts, self.answers = Counter(), Counter()
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

    def _socket(self, raw):
        host, _, port = self.endpoint.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=5) as one:
            one.sendall(raw)

    def _put(self, command, pieces):
        schema = split(protocol.WEIGHTS_SCHEMA.serialize())[0]
        first = flight_data(schema, command=command)
        self.call("DoPut", [first, *(flight_data(h, b) for h, b in pieces)])


class Fuzzer(Caller):
    """Makes malformed messages: each method whose name begins with send_ is a kind of them."""

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

    # Wrong tokens.

    def send_wrong_token(self):
        """A right request with a wrong token or none."""
        token = [None, "", "wrong", TOKEN[:-1], TOKEN + "x", "x" * 8000][self.rng.integers(6)]
        method = ["DoExchange", "DoPut", "DoAction", "ListFlights"][self.rng.integers(4)]
        self.call(method, self.request(), token)

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
        messages = self.request()
        at = int(self.rng.integers(len(messages)))
        messages[at] = self.broken(messages[at])
        self.call("DoExchange", messages)

    def send_odd_action(self):
        """Unknown actions, and known ones with any body."""
        names = [b"hello", b"bye", b"status", b"stop", b"", self.noise(20).hex().encode()]
        name = names[self.rng.integers(len(names))]
        body = [self.noise(), self.broken(self.opening), b"[" * 5000, b"x" * 70000][self.rng.integers(4)]
        if name != b"status":
            self.call("DoAction", [field(1, name) + field(2, body)])

    # Arrow.

    def send_broken_schema(self):
        """A schema message with wrong bytes."""
        self.call("DoExchange", self.request(schema=self.broken(self.schema)))

    def send_broken_header(self):
        """A batch message with wrong bytes: counts, offsets, lengths, types."""
        header, body = self.batch
        self.call("DoExchange", self.request(batch=(self.broken(header), body)))

    def send_broken_body(self):
        """A body that is shorter or longer than the batch says."""
        header, body = self.batch
        body = [b"", body[: self.rng.integers(len(body))], body + self.noise()][self.rng.integers(3)]
        self.call("DoExchange", self.request(batch=(header, body)))

    def send_broken_compression(self):
        """A compressed body with a wrong length or wrong bytes."""
        header, body = self.zipped
        self.call("DoExchange", self.request(self.wide_schema, (header, self.broken(body))))

    def send_other_schema(self):
        """Right Arrow, but not a request's columns."""
        kinds = [pa.uint8(), pa.utf8(), pa.list_(pa.float64()), pa.fixed_shape_tensor(pa.uint8(), [3, 2000, 2000]),
                 pa.fixed_shape_tensor(pa.int64(), [3, 6, 5]), pa.dictionary(pa.int8(), pa.utf8())]  # fmt: skip
        names = ["images", "labels", "", "x" * 50]
        chosen = [
            (names[self.rng.integers(4)], kinds[self.rng.integers(6)]) for _ in range(self.rng.integers(0, 4))
        ]
        self.call("DoExchange", self.request(schema=split(pa.schema(chosen).serialize())[0]))

    def send_odd_rows(self):
        """No tile, or more than are taken."""
        rows = [0, 17, 100][self.rng.integers(3)]
        schema = protocol.image_schema(6, 5)
        column = protocol.tensor_column(weak_views(batch=max(1, rows)), schema.field(0).type)
        batch = pa.record_batch([column], schema=schema).slice(0, rows)
        self.call("DoExchange", self.request(batch=split(batch.serialize())))

    def send_odd_ask(self):
        """A field of a request's JSON that is missing or of a wrong kind, and JSON that is none."""
        ask = dict(self.ask)
        key = list(ask)[self.rng.integers(len(ask))]
        if self.rng.integers(2):
            del ask[key]
        else:
            ask[key] = self.odd()
        note = protocol.pack(ask) if self.rng.integers(4) else self.broken(protocol.pack(ask))
        self.call("DoExchange", self.request(ask=note))

    def send_odd_opening(self):
        """Another network or protocol, or no JSON at the start of a stream."""
        content = {"protocol": protocol.PROTOCOL, "identity": {**IDENTITY, "classes": self.odd()}}
        opening = [protocol.pack(content), protocol.pack({"protocol": self.odd()}), self.noise()][
            self.rng.integers(3)
        ]
        self.call("DoExchange", self.request(opening=opening))

    def send_message_out_of_turn(self):
        """A batch before its schema, two schemas, a message without content."""
        first, second = self.request()
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
            yield from self.request()[: self.rng.integers(1, 3)]
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
        self._put(protocol.pack(parcel), [self.blob])

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
        self._put(protocol.pack(self.parcel), pieces[self.rng.integers(len(pieces))])
