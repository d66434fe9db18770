"""Weak views of any bands and with missing pixels at a teacher service: the same labels as in the student's process."""

import copy

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from mkd.semi.entropy import TileLimit
from mkd.teacher import protocol
from mkd.teacher.client.flight_client import Access, FlightClient, Refused
from mkd.teacher.local import LocalTeacher
from tests.helpers.teacher.services import CLASSES, PLAN, TOKEN, remote, same, service, weak_views

SCALE = {"bands": 5, "dtype": "uint16", "low": [0.0] * 5, "high": [4000.0] * 5}
FIVE = protocol.identity({**PLAN, "scale": SCALE}, CLASSES)


class Net(nn.Module):
    """A convolution that puts its mean in the place of missing pixels."""

    def __init__(self, bands):
        super().__init__()
        torch.manual_seed(bands)
        self.conv = nn.Conv2d(bands, len(CLASSES), 3, padding=1)

    def forward(self, images):
        return self.conv(images.nan_to_num(0.4))


def views(bands, seed=0):
    """Return float32 views (4,bands,6,5), some pixels NaN."""
    rng = np.random.default_rng(seed)
    images = torch.tensor(rng.uniform(-0.2, 1.4, (4, bands, 6, 5)), dtype=torch.float32)
    return images.masked_fill(torch.tensor(rng.random((4, 1, 6, 5)) < 0.2), torch.nan)


def answers(teacher, batches):
    """Return the answers to batches, asked one after the other."""
    found = []
    for number, images in enumerate(batches):
        teacher.submit(number, images, 0.0)
        found.append(teacher.collect(number))
    return found


def local(net):
    """Return the reference."""
    return LocalTeacher(net, 0.9, 0.4, TileLimit(absolute=1.0))


def test_five_bands_with_holes():
    """A service gives the labels, scores and flags of the local teacher, to the bit."""
    net, batches = Net(5), [views(5, seed) for seed in range(3)]
    with service(copy.deepcopy(net), identity=FIVE) as server:
        teacher = remote(net, server.endpoint, identity=FIVE, bands=5)
        pairs = zip(answers(teacher, batches), answers(local(net), batches), strict=True)
        assert all(same(one, other) for one, other in pairs)
        teacher.close()


def test_colours_with_and_without_holes_at_one_service():
    """Float views of one student and 8-bit views of another do not share a batch, and both are right."""
    net = Net(3)
    with service(copy.deepcopy(net), wait_s=0.2) as server:
        first, second = (remote(net, server.endpoint, bands=bands, session="job") for bands in (3, None))
        first.submit(0, views(3), 0.0)
        second.submit(0, weak_views(), 0.0)
        found = [first.collect(0), second.collect(0)]
        wanted = answers(local(net), [views(3)]) + answers(local(net), [weak_views()])
        assert all(same(one, other) for one, other in zip(found, wanted, strict=True))
        first.close()
        second.close()


def test_students_of_colours_speak_the_old_protocol():
    """8-bit colours are protocol 2, as earlier versions know it; other tiles, and views, others, which those refuse."""
    said = [
        FlightClient("127.0.0.1:1", Access(FIVE, None, bands=b, views=v))._introduction()["protocol"]
        for v in (False, True)
        for b in (None, 5)
    ]
    assert said == [2, 3, 4, 5]


def test_other_bands_are_refused():
    """A student of other bands is told both; a stream of other bands or type than its protocol says ends."""
    with service(Net(5), identity=FIVE) as server:
        other = protocol.identity({**PLAN, "scale": {**SCALE, "bands": 4}}, CLASSES)
        with pytest.raises(Refused, match="another network: scale"):
            FlightClient(server.endpoint, Access(other, TOKEN, bands=4)).hello()
    for schema, bands in (
        (protocol.image_schema(6, 5, 4), 5),
        (protocol.image_schema(6, 5), 5),
        (protocol.image_schema(6, 5, 5), None),
        (pa.schema([("images", pa.fixed_shape_tensor(pa.float64(), [5, 6, 5]))]), 5),
    ):
        with pytest.raises(protocol.ProtocolError):
            protocol.tile_size(schema, 64, bands)
    assert protocol.tile_size(protocol.image_schema(6, 5, 5), 64, 5) == (6, 5)


@pytest.mark.parametrize("bands", [None, 5])
def test_views_travel_with_the_request(bands):
    """A service averages over flips where the student asks for it: the labels of the local teacher, to the bit."""
    net = Net(bands or 3)
    batches = [views(5, seed) if bands else weak_views(seed) for seed in range(2)]
    own = {"identity": FIVE, "bands": 5} if bands else {}
    with service(copy.deepcopy(net), **({"identity": FIVE} if bands else {})) as server:
        teacher = remote(net, server.endpoint, views="flips", **own)
        reference = LocalTeacher(net, 0.9, 0.4, TileLimit(absolute=1.0), views="flips")
        pairs = list(zip(answers(teacher, batches), answers(reference, batches), strict=True))
        assert all(same(one, other) for one, other in pairs)
        others = answers(local(net), batches)
        assert not any(
            torch.equal(one.score, other.score) for (one, _), other in zip(pairs, others, strict=True)
        )
        teacher.close()
