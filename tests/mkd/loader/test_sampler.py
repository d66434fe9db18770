"""Who reads what: each sample once an epoch, whatever the number of ranks and wherever a run goes on."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mkd.loader import sampler as module
from mkd.loader.sampler import Sampler

WORLDS = 300  # drawn worlds of each law

# Uneven shards, empty and one-sample ones too; batches larger, equal and smaller than an epoch; more ranks than shards.
COUNTS = st.lists(st.integers(0, 12), min_size=1, max_size=8).filter(any)
PART, RANKS, SEED, STEP = st.integers(1, 5), st.integers(1, 12), st.integers(0, 2**40), st.integers(0, 60)
LANES = st.sampled_from([(10**6, 64), (0, 1), (0, 3), (0, 64), (20, 4)])  # MAX_WHOLE_EPOCH and WINDOW


@pytest.fixture
def small(monkeypatch):
    """Give a function that sets MAX_WHOLE_EPOCH and WINDOW, so that small sets are cut into lanes."""

    def choose(sizes):
        monkeypatch.setattr(module, "MAX_WHOLE_EPOCH", sizes[0])
        monkeypatch.setattr(module, "WINDOW", sizes[1])

    return choose


def laws(function):
    """Draw many worlds; the fixture sets anew what each world needs."""
    return settings(max_examples=WORLDS, suppress_health_check=[HealthCheck.function_scoped_fixture])(
        function
    )


def ranks_of(counts, part, ranks, seed):
    return [Sampler(counts, part * ranks, seed, rank, ranks) for rank in range(ranks)]


def joined(plans, start, stop):
    """Join the ranks' parts of each step in rank order."""
    return [pair for step in range(start, stop) for plan in plans for pair in plan.step(step)]


@laws
@given(COUNTS, PART, RANKS, SEED, LANES)
def test_every_sample_exactly_once_an_epoch(small, counts, part, ranks, seed, sizes):
    """Over all ranks each epoch holds each sample once, and epochs follow each other without a gap."""
    small(sizes)
    count = sum(counts)
    order = joined(ranks_of(counts, part, ranks, seed), 0, -(-3 * count // (part * ranks)))
    assert [epoch for epoch, _ in order] == [place // count for place in range(len(order))]
    for epoch in range(3):
        assert sorted(s for e, s in order if e == epoch) == list(range(count))


@laws
@given(COUNTS, PART, SEED, STEP, LANES)
def test_the_global_order_does_not_depend_on_the_ranks(small, counts, part, seed, step, sizes):
    """12 tiles a step are the same 12 in the same order on 1, 2, 3, 4, 6 or 12 ranks, equally many on each."""
    small(sizes)
    expected = Sampler(counts, 12 * part, seed).step(step)
    for ranks in (2, 3, 4, 6, 12):
        parts = [plan.step(step) for plan in ranks_of(counts, 12 * part // ranks, ranks, seed)]
        assert {len(pairs) for pairs in parts} == {12 * part // ranks}
        assert [pair for pairs in parts for pair in pairs] == expected


@laws
@given(COUNTS, st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), SEED, STEP, LANES)
def test_a_run_goes_on_at_any_step_in_any_world(small, counts, part, before, after, seed, stop, sizes):
    """Steps up to any one on some ranks, and the rest on others, are the stream of one process."""
    small(sizes)
    batch, start, end = part * before * after, max(0, stop - 4), stop + 4
    first = ranks_of(counts, batch // before, before, seed)
    rest = ranks_of(counts, batch // after, after, seed)
    alone = ranks_of(counts, batch, 1, seed)
    assert joined(first, start, stop) + joined(rest, stop, end) == joined(alone, start, end)


@laws
@given(COUNTS, PART, RANKS, SEED, STEP, LANES, st.data())
def test_blocks_cover_the_steps_and_stay_in_a_window(small, counts, part, ranks, seed, start, sizes, data):
    """Blocks follow each other, none is longer than a window, none reads a sample twice or goes into a new epoch."""
    small(sizes)
    plan = Sampler(counts, part * ranks, seed, data.draw(st.integers(0, ranks - 1)), ranks)
    blocks = list(plan.blocks(start, start + 40))
    assert [step for first, end in blocks for step in range(first, end)] == list(range(start, start + 40))
    for first, end in (block for block in blocks if block[1] - block[0] > 1):
        pairs = [pair for pairs in plan.steps(first, end) for pair in pairs]
        assert end - first <= sizes[1]
        assert len({epoch for epoch, _ in pairs}) == 1
        assert len(set(pairs)) == len(pairs)


@laws
@given(st.lists(st.integers(5, 40), min_size=2, max_size=8), st.integers(1, 8), SEED, STEP)
def test_a_slot_reads_neighbours_for_a_block(small, counts, batch, seed, start):
    """A slot's samples of a block touch as few shards as neighbours in the shuffled stream can: short runs of rows."""
    small((0, 4))
    plan = Sampler(counts, batch, seed)
    for first, end in plan.blocks(start, start + 30):
        for slot in range(batch):
            places = [plan.locate(plan.step(step)[slot][1]) for step in range(first, end)]
            for shard in {shard for shard, _ in places}:
                rows = [row for s, row in places if s == shard]
                assert max(rows) - min(rows) < 4 or {0, counts[shard] - 1} <= set(rows)  # the ring's seam
            assert len({shard for shard, _ in places}) <= 2


@laws
@given(COUNTS)
def test_a_sample_is_found_in_its_shard(small, counts):
    """Samples are numbered through the shards in their order; empty shards hold none."""
    plan = Sampler(counts, 1, 0)
    expected = [(shard, row) for shard, count in enumerate(counts) for row in range(count)]
    assert [plan.locate(sample) for sample in range(plan.count)] == expected


def test_a_small_set_keeps_its_order():
    """Up to MAX_WHOLE_EPOCH samples an epoch is numpy's permutation under [seed, epoch]: results rest on it."""
    counts = [1000, 96, 3000]
    pairs = [pair for pairs in Sampler(counts, 8, 7).steps(0, 1024) for pair in pairs]
    for epoch in range(2):
        expected = np.random.default_rng([7, epoch]).permutation(4096)
        assert [s for e, s in pairs if e == epoch] == expected.tolist()


def test_the_order_of_a_large_set_is_fixed():
    """These figures never change: a run that goes on under a later version reads what it would have read."""
    plan = Sampler([700] * 10, 4, 3, 1, 2)
    assert plan.step(0) + plan.step(3500) == [(0, 5882), (0, 4819), (2, 4166), (2, 1027)]


@pytest.mark.parametrize("counts", [[100], [600] * 8])
def test_epochs_and_seeds_are_shuffled_differently(counts):
    """Another epoch or another seed is another order, and the order is not the index's."""
    count = sum(counts)
    first, second = ([s for _, s in Sampler(counts, count, 0).step(step)] for step in range(2))
    other = [s for _, s in Sampler(counts, count, 1).step(0)]
    assert len({tuple(order) for order in (first, second, other, range(count))}) == 4


def test_lanes_shuffle_within_their_windows(small):
    """Neighbours are drawn apart: a batch's samples come from all over, a slot's next one seldom is the next row."""
    small((0, 64))
    pairs = [pair for pairs in Sampler([512] * 16, 8, 0).steps(0, 1024) for pair in pairs]
    lanes = [[s for _, s in pairs[slot::8]] for slot in range(8)]
    assert sum(b - a == 1 for lane in lanes for a, b in zip(lane, lane[1:], strict=False)) < 8 * 1024 * 0.05
    batches = [[s // 512 for _, s in pairs[k * 8 : k * 8 + 8]] for k in range(1024)]
    assert min(len(set(shards)) for shards in batches) == 8


def test_no_two_windows_share_their_order(small):
    """The windows of all lanes and two epochs are drawn independently, the first of them too."""
    small((0, 16))
    plan = Sampler([1024], 4, 0)
    orders = [plan.step(step) for step in range(512)]
    windows = [
        tuple(np.argsort([orders[step + i][slot][1] for i in range(16)]))
        for step in range(0, 512, 16)
        for slot in range(4)
    ]
    assert len(set(windows)) == len(windows) == 128


def test_every_sample_can_come_first():
    """Over many seeds the first sample is any of them about equally often."""
    firsts = [Sampler([2, 3], 1, seed).step(0)[0][1] for seed in range(500)]
    assert all(60 <= firsts.count(s) <= 140 for s in range(5))


def test_a_single_sample_repeats_each_epoch():
    """One tile fills a batch of four with four epochs of itself."""
    assert Sampler([1], 4, 0).step(2) == [(8, 0), (9, 0), (10, 0), (11, 0)]


@pytest.mark.parametrize("counts", [[3], [5000]])
def test_pairs_are_plain_integers(counts):
    """Samples are Python ints, so that they seed generators and go into JSON."""
    plan = Sampler(np.array(counts), 3, 0)
    assert {type(v) for pair in plan.step(0) for v in (*pair, *plan.locate(pair[1]))} == {int}


@pytest.mark.parametrize("counts", [[], [0], [0, 0]])
def test_an_empty_data_set_is_refused(counts):
    """A plan over nothing says that at least one tile is needed."""
    with pytest.raises(ValueError, match="0 tiles; at least 1"):
        Sampler(counts, 4, 0)


@pytest.mark.parametrize(("batch", "ranks", "better"), [(6, 4, 8), (1, 4, 4), (9, 2, 8)])
def test_a_batch_that_ranks_cannot_share_is_refused(batch, ranks, better):
    """The sentence names the key, both numbers and a batch that works."""
    with pytest.raises(ValueError, match=rf"data.batch={batch} .* {ranks} ranks; use {better} ") as error:
        Sampler([10], batch, 0, 0, ranks)
    assert str(error.value).count("\n") == 0
    Sampler([10], better, 0, 0, ranks)


HUGE = """
import numpy as np
from mkd.loader.sampler import Sampler
counts = np.random.default_rng(0).multinomial(10**9, np.full(10**6, 1e-6))
plan = Sampler(counts, 8 * 4096, 0, 4095, 4096)
pairs = plan.step(0) + plan.step(10**9 // plan.batch) + plan.step(10**12)
status = dict(line.split(":") for line in open("/proc/self/status"))
print(len({plan.locate(sample) for _, sample in pairs}), int(status["VmHWM"].split()[0]) // 1024)
"""


def test_a_thousand_million_tiles_fit_in_a_rank():
    """1e9 tiles in 1e6 shards on 4,096 ranks: any step of any epoch, in a process of less than 200 MiB."""
    done = subprocess.run([sys.executable, "-c", HUGE], capture_output=True, text=True, check=True)
    places, mib = map(int, done.stdout.split())
    assert places == 24
    assert mib < 200
