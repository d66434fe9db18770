"""Messages: what is sent is read back without a copy, and anything else is a ProtocolError."""

import contextlib
import json
from dataclasses import asdict

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mkd.teacher import protocol
from mkd.teacher.protocol import ProtocolError
from tests.helpers.teacher.services import CLASSES, IDENTITY, PLAN, weak_views

ASK = protocol.Request(3, 0.95, 0.4, "job.0", 7)
junk = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def test_a_request_is_read_back():
    """JSON keeps every bit of a float."""
    exact = protocol.Request(2**53, 0.1 + 0.2, 1 / 3, "a.1", 0)
    assert protocol.read_request(protocol.pack(exact)) == exact


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"id": -1}, "id=-1"),
        ({"id": True}, "id=True"),
        ({"id": 1.5}, "id=1.5"),
        ({"id": 2**60}, "id="),
        ({"id": 10**400}, "id=1000000"),
        ({"limit": -(10**400)}, "limit=-1000000"),
        ({"confidence": 1.01}, "confidence=1.01"),
        ({"limit": float("nan")}, "limit=nan"),
        ({"limit": float("inf")}, "limit=inf"),
        ({"limit": "0"}, "limit=0"),
        ({"session": "x" * 81}, "session="),
        ({"session": None}, "session=None"),
        ({"min_version": None}, "min_version=None"),
    ],
)
def test_a_wrong_field_is_named(change, text):
    """Each field's type and range is checked, and the message names it."""
    with pytest.raises(ProtocolError, match=text.replace(".", r"\.")):
        protocol.read_request(json.dumps({**asdict(ASK), **change}).encode())


@pytest.mark.parametrize(
    "raw",
    [None, b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 60000, b'{"a":"' + b"x" * protocol.MAX_JSON + b'"}'],
)
def test_what_is_no_small_json_object_is_refused(raw):
    """Nothing, broken, of another kind, nested beyond reason, or too long."""
    with pytest.raises(ProtocolError):
        protocol.unpack(raw)


@given(st.binary(max_size=80) | junk.map(lambda c: json.dumps(c).encode()))
def test_any_bytes_are_read_or_refused(raw):
    """No input raises anything but ProtocolError."""
    for read in (
        protocol.read_request,
        protocol.read_reply,
        lambda r: protocol.read_weights_header(protocol.unpack(r), 100),
    ):
        with contextlib.suppress(ProtocolError):
            read(raw)


@given(junk)
def test_any_identity_can_be_compared(content):
    """Whatever a student says about its network, the differences are a short text."""
    found = protocol.differences(
        {"architecture": content, "classes": content, "normalisation": content}, IDENTITY
    )
    assert found
    assert len(found) < 5000


def test_differences_name_both_values():
    """Architecture, classes and normalisation, each with the student's and the teacher's value."""
    other = protocol.identity({**PLAN, "backbone": "big", "std": (0.1, 0.2, 0.2)}, CLASSES[:2])
    text = protocol.differences(other, IDENTITY)
    assert "2 (grass, road) at the student, 3 (grass, road, water) here" in text
    assert "backbone big at the student, tiny here" in text
    assert "normalisation std [0.1, 0.2, 0.2] at the student, [0.2, 0.2, 0.2] here" in text
    assert protocol.differences(json.loads(json.dumps(IDENTITY)), IDENTITY) == ""


def column(images):
    return protocol.tensor_column(images, protocol.image_schema(*images.shape[2:]).field(0).type)


def test_tensors_travel_without_a_copy():
    """A column holds the tensor's own bytes; what is read back equals them."""
    images = weak_views(batch=3)
    batch = pa.record_batch([column(images)], schema=protocol.image_schema(6, 5))
    assert batch.column(0).storage.values.buffers()[1].address == images.data_ptr()
    assert torch.equal(protocol.tensor_of(protocol.whole(batch, 3).column(0)), images)
    assert torch.equal(protocol.tensor_of(batch.slice(1).column(0)), images[1:])
    strided = images.transpose(2, 3)
    assert torch.equal(protocol.tensor_of(column(strided)), strided)


@pytest.mark.parametrize(
    "schema",
    [
        pa.schema([]),
        pa.schema([("images", pa.uint8())]),
        pa.schema([("images", pa.fixed_shape_tensor(pa.uint8(), [4, 6, 5]))]),
        pa.schema([("images", pa.fixed_shape_tensor(pa.uint8(), [6, 5]))]),
        pa.schema([("images", pa.fixed_shape_tensor(pa.float32(), [3, 6, 5]))]),
        pa.schema([("other", pa.fixed_shape_tensor(pa.uint8(), [3, 6, 5]))]),
        pa.schema([("images", pa.fixed_shape_tensor(pa.uint8(), [3, 6, 5], permutation=[0, 2, 1]))]),
        pa.schema([("images", pa.fixed_shape_tensor(pa.uint8(), [3, 6, 0]))]),
        pa.schema([("images", pa.fixed_shape_tensor(pa.uint8(), [3, 6, 65]))]),
        pa.schema([*protocol.image_schema(6, 5), ("more", pa.uint8())]),
    ],
)
def test_other_schemas_are_refused(schema):
    """Only one column of uint8 tensors (3,H,W) with sides up to the limit."""
    with pytest.raises(ProtocolError):
        protocol.tile_size(schema, 64)


def test_the_right_schema_gives_the_size():
    """H and W come from the schema."""
    assert protocol.tile_size(protocol.image_schema(64, 5), 64) == (64, 5)


def test_damaged_batches_are_refused():
    """No data, no rows, too many rows, missing values."""
    schema = protocol.image_schema(6, 5)
    batch = pa.record_batch([column(weak_views(batch=3))], schema=schema)
    for bad, most in ((None, 3), (batch.slice(0, 0), 3), (batch, 2)):
        with pytest.raises(ProtocolError):
            protocol.whole(bad, most)
    values = pa.array([None] + [1] * 89, pa.uint8())
    storage = pa.FixedSizeListArray.from_arrays(values, 90)
    with pytest.raises(ProtocolError, match="missing"):
        protocol.tensor_of(pa.ExtensionArray.from_storage(schema.field(0).type, storage))
