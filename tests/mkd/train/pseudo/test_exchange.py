"""Global batches of pseudo-labelled tiles: the same on any number of ranks, and after a resume with another number."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mkd.teacher.api import TeachersGone
from mkd.train.batches import FILTERED
from mkd.train.pseudo.exchange import PseudoTile, TileSlot, exchange_tiles
from mkd.train.pseudo.feed import LIMIT
from tests.helpers.processes.ranks import run_ranks
from tests.helpers.processes.threads import on_threads
from tests.helpers.training.pseudo import TILES
from tests.helpers.training.pseudo_ranks import (
    Case,
    drawn,
    fates,
    feed_on,
    same_state,
    same_steps,
    walk,
    whole,
)

patterns = st.lists(st.booleans(), min_size=1, max_size=40) | st.lists(
    st.sampled_from([False] * 9 + [True]), min_size=1, max_size=40
)
counts = st.integers(1, 4)
steps = st.integers(1, 6)


def alone(case, *args, **more):
    """Walk with one rank."""
    (walked,) = on_threads(1, lambda world: walk(world, case, *args, **more))
    return walked


@given(
    patterns,
    counts,
    counts,
    st.integers(1, 2),
    st.integers(0, 3),
    st.booleans(),
    steps,
    steps,
    st.integers(0, 3),
)
@settings(max_examples=25, deadline=None)
def test_ranks_change_nothing(tmp_path_factory, pattern, first, second, each, depth, stored, cut, more, lost):
    """Killed and gone on from with another number of ranks: tiles, labels, strong views, partners, ledger, state.

    They are those of one rank with the whole batch, in the same order, whatever is accepted: also where the batches
    cannot be filled, and with stored labels.
    """
    folders = [tmp_path_factory.mktemp(name) for name in ("ranks", "alone")]
    case = Case(pattern, math.lcm(first, second) * each, depth, stored)
    reference = alone(case, cut + more, folder=folders[1])
    middle = alone(case, cut)["state"]
    before = on_threads(first, lambda world: walk(world, case, cut, folder=folders[0], lost=lost))
    assert all(same_state(part["state"], middle) for part in before)
    state = before[-1]["state"]
    after = on_threads(second, lambda world: walk(world, case, more, state, folders[0]))
    assert all(same_state(part["state"], reference["state"]) for part in after)
    assert same_steps(whole(before) + whole(after), whole([reference]))
    assert fates(folders[0]) == fates(folders[1])


@given(patterns, counts, st.integers(1, 3), st.integers(0, 3), steps)
@settings(max_examples=40, deadline=None)
def test_the_ledgers_are_the_plans_prefix(tmp_path_factory, pattern, ranks, size, depth, count):
    """Each tile of the plan once over all ranks: trained on, rejected, or in the pool; each rank read its rejected."""
    folder, case = tmp_path_factory.mktemp("ledger"), Case(pattern, ranks * size, depth)
    walked = on_threads(ranks, lambda world: walk(world, case, count, folder=folder))
    state = walked[0]["state"]["feed"]
    found = [n for trained, rejected in fates(folder).values() for n in [*trained, *rejected.elements()]]
    pool = [(state["position"] - 1) * case.batch + row for row in state["rows"]]
    assert sorted(found + pool) == list(range(state["position"] * case.batch))
    for rank in range(ranks):
        rows = map(json.loads, (folder / f"ledger-{rank}.jsonl").read_text().splitlines())
        rejected = [e * TILES + s for row in rows for e, s in row["rejected"]]
        assert all(n // size % ranks == rank for n in rejected)


@given(
    patterns, st.integers(2, 4), st.integers(1, 2), st.integers(0, 3), st.integers(0, 8), st.integers(0, 3)
)
@settings(max_examples=40, deadline=None)
def test_one_teacher_gone_ends_the_step_of_all(pattern, ranks, size, depth, ticket, unlucky):
    """All ranks raise in the same step, none waits for ever; what is left is one rank's state before that step."""
    case = Case(pattern, ranks * size, depth)

    unlucky %= ranks

    def rank_of(world):
        feed = feed_on(world, case, gone=ticket if world.rank == unlucky else None)
        with pytest.raises(TeachersGone, match="no teacher") as error:
            list(map(feed, [0.5] * (ticket + 1)))
        scores = feed.teacher.tile_limit.state_dict()["scores"]
        return str(error.value), {"feed": feed.state_dict(), "scores": scores}

    results = on_threads(ranks, rank_of)
    expected = alone(case, results[0][1]["feed"]["step"])["state"]
    for rank, (said, state) in enumerate(results):
        assert same_state({**state, "scores": expected["scores"]}, expected)
        assert state["scores"] == results[0][1]["scores"]
        # those of the broken step's whole rounds are remembered too
        assert state["scores"][: len(expected["scores"])] == expected["scores"]
        assert said.startswith("no teacher answers" if rank == unlucky else f"rank {unlucky} has no teacher")


def test_a_shortage_is_counted_over_all_ranks(caplog):
    """When everything is rejected, all ranks take LIMIT candidate batches and log so alike."""

    def rank_of(world):
        feed = feed_on(world, Case([False], 6))
        assert (feed(0.5).labels >= FILTERED).all()
        return feed.position, feed.short

    assert on_threads(3, rank_of) == [(LIMIT, 6)] * 3
    assert len(caplog.messages) == 3
    assert len(set(caplog.messages)) == 1
    assert "0 of 6 tiles" in caplog.messages[0]


def tile(n, side=4):
    """Make tile n, its generator used a little, half a 64-bit number kept."""
    g = np.random.default_rng(n)
    weak = torch.from_numpy(g.integers(0, 256, (3, side, side), np.uint8))
    labels = torch.from_numpy(g.integers(0, 256, (side, side), np.uint8))
    g.integers(0, 2**32, 1 + n % 2, np.uint32)
    return PseudoTile((n, 2**40 + n), weak, labels, g)


@given(st.integers(2, 4), st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_tiles_arrive_as_they_left(ranks, size, random):
    """Pixels, labels, pair and generator of each tile get to the right place, wherever the tiles lie."""
    owners = [random.randrange(ranks) for _ in range(ranks * size)]

    def rank_of(world):
        batch = [TileSlot(o * size, tile(n) if o == world.rank else None) for n, o in enumerate(owners)]
        return exchange_tiles(batch, world, (4, 4))

    for rank, dealt in enumerate(on_threads(ranks, rank_of)):
        assert len(dealt) == size + 1
        for n, found in enumerate(dealt, rank * size):
            given_ = tile(n % (ranks * size))
            assert found.pair == given_.pair
            assert torch.equal(found.weak, given_.weak)
            assert torch.equal(found.labels, given_.labels)
            assert found.generator.bit_generator.state == given_.generator.bit_generator.state
            # the kept half of a number is used by the next 32-bit draw
            assert (
                found.generator.integers(0, 2**32, 3, np.uint32).tolist()
                == given_.generator.integers(0, 2**32, 3, np.uint32).tolist()
            )


def test_only_what_lies_elsewhere_is_moved():
    """Tiles that are where they are needed do not travel, but for each rank's next one."""
    sent = {}

    def rank_of(world):
        class Spy(type(world)):
            def exchange(self, out, counts):
                sent[self.rank] = [len(t) for t in out]
                return super().exchange(out, counts)

        spy = Spy(world.rank, world.ranks, world.device, meeting=world.meeting)
        batch = [TileSlot(n, tile(n) if n // 2 == world.rank else None) for n in range(6)]
        exchange_tiles(batch, spy, (4, 4))

    on_threads(3, rank_of)
    assert sent == {0: [0, 0, 1], 1: [1, 0, 0], 2: [0, 1, 0]}


CASES = 8


def test_on_real_ranks(tmp_path):
    """Two processes go some steps and are killed, three go on: the same as one rank, for drawn patterns."""
    target = "tests.helpers.training.pseudo_ranks:real_rank"
    before = run_ranks(target, 2, tmp_path, str(tmp_path), str(CASES), "4", "2")
    for case in range(CASES):
        torch.save(before[1][case]["state"], tmp_path / f"state-{case}.pt")
    after = run_ranks(target, 3, tmp_path, str(tmp_path), str(CASES), "3", "0")
    pools = 0
    for case in range(CASES):
        folder = tmp_path / f"alone-{case}"
        folder.mkdir()
        reference = alone(drawn(case), 7, folder=folder)
        parts = [[rank[case] for rank in ranks] for ranks in (before, after)]
        assert same_steps(whole(parts[0]) + whole(parts[1]), whole([reference])), case
        assert all(same_state(p["state"], reference["state"]) for p in parts[1]), case
        assert fates(tmp_path / str(case)) == fates(folder), case
        pools += len(parts[0][0]["state"]["feed"]["rows"]) > 0
    assert pools > 1, "the cases must have pools where they were killed"


def test_a_teacher_gone_on_a_real_rank(tmp_path):
    """One process's teacher is gone: both raise, with the state of the step before."""
    found = run_ranks("tests.helpers.training.pseudo_ranks:rank_without_teacher", 2, tmp_path, "4")
    assert found[1]["said"] == "no teacher answers"
    assert found[0]["said"].startswith("rank 1 has no teacher")
    case = Case(**found[0]["case"])
    expected = alone(case, found[0]["state"]["feed"]["step"])["state"]
    for part in found:
        assert same_state({**part["state"], "scores": expected["scores"]}, expected)
        assert part["state"]["scores"] == found[0]["state"]["scores"]
