"""Real ranks on services: each tile of the plan is used once, and one rank brings the weights."""

import torch

from tests.helpers.processes.ranks import run_ranks
from tests.helpers.teacher.ranks_on_services import judge, train, write_tiles
from tests.helpers.teacher.services import service

TARGET = f"{train.__module__}:train"


def uploads_of(server):
    """Record what is uploaded to a service from now on."""
    found, take = [], server.intake._take_over

    def record(parcel, state):
        found.append(parcel)
        take(parcel, state)

    server.intake._take_over = record
    return found


def test_two_ranks_and_two_teachers(tmp_path):
    """Gloo ranks, real tiles, two services on this machine: the plan's tiles once each, weights from one rank."""
    write_tiles(tmp_path)
    with service() as one, service() as other:
        uploads = [uploads_of(server) for server in (one, other)]
        given = (str(tmp_path), "16", "4", one.endpoint, other.endpoint)
        ends, said = run_ranks(TARGET, 2, tmp_path / "out", *given), []
        assert judge(tmp_path, ends, 4, said.append) == []
        assert said[0].startswith("16 steps")
        for server, parcels in zip((one, other), uploads, strict=True):
            versions = [p.header.version for p in parcels]
            assert versions == sorted(set(versions)), "each version at most once"
            assert max(versions) >= 16 - 4
            assert {p.header.session for p in parcels} == {"soak.0"}
            assert server.batcher.gauge.tiles > 0
        assert one.batcher.gauge.tiles + other.batcher.gauge.tiles >= ends[0]["read"]
    # What the journal says of teachers is said of all ranks, alike on each.
    assert ends[0]["values"] == ends[1]["values"]
    assert sum(ends[0]["groups"]["ages"].values()) == sum(sum(e["tally"]["ages"].values()) for e in ends)


def test_what_is_published_is_the_average_of_all_ranks(tmp_path):
    """At max_age=0 each version is uploaded once, and the last one is the other rank's average too, to the bit."""
    write_tiles(tmp_path)
    with service() as server:
        parcels = uploads_of(server)
        ends = run_ranks(TARGET, 2, tmp_path / "out", str(tmp_path), "10", "0", server.endpoint)
        assert judge(tmp_path, ends, 0, lambda text: None) == []
        assert [p.header.version for p in parcels] == list(range(11))
    found = server.batcher.model.state_dict()  # the batcher has ended, with the last weights
    assert server.batcher.header.version == 10
    assert all(torch.equal(t, found[name]) for name, t in ends[1]["average"].items())
