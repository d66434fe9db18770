"""Who reads what: each sample once an epoch, whatever the number of ranks and wherever a run goes on."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mkd.data.plan import Plan

# Small sets and batches that are larger, equal and smaller than an epoch.
COUNT, PART, RANKS, SEED = st.integers(1, 40), st.integers(1, 6), st.integers(1, 5), st.integers(0, 1000)


def plans(count, part, ranks, seed):
    return [Plan(count, part * ranks, seed, rank, ranks) for rank in range(ranks)]


def global_order(plans, start, stop):
    """Join the ranks' parts of each step in rank order."""
    return [pair for step in range(start, stop) for plan in plans for pair in plan.step(step)]


@settings(max_examples=60, deadline=None)
@given(COUNT, PART, RANKS, SEED)
def test_every_sample_exactly_once_an_epoch(count, part, ranks, seed):
    """Over all ranks, each epoch holds each sample once, and epochs follow each other without a gap."""
    steps = -(-3 * count // (part * ranks))  # at least three epochs
    order = global_order(plans(count, part, ranks, seed), 0, steps)
    for epoch in range(3):
        assert order[epoch * count] == (epoch, order[epoch * count][1])
        samples = [s for e, s in order if e == epoch]
        assert sorted(samples) == list(range(count))
    assert [e for e, _ in order] == sorted(e for e, _ in order)


@settings(max_examples=60, deadline=None)
@given(COUNT, PART, SEED, st.integers(0, 50))
def test_the_global_order_does_not_depend_on_the_ranks(count, part, seed, step):
    """12 tiles a step are the same 12 in the same order on 1, 2, 3, 4 or 6 ranks."""
    expected = Plan(count, 12 * part, seed).step(step)
    for ranks in (2, 3, 4, 6):
        assert global_order(plans(count, 12 * part // ranks, ranks, seed), step, step + 1) == expected


@settings(max_examples=60, deadline=None)
@given(COUNT, PART, RANKS, SEED, st.integers(0, 30))
def test_a_run_goes_on_at_any_step(count, part, ranks, seed, start):
    """Entering at step k by arithmetic gives what a run from step 0 would have given from there on."""
    for rank in range(ranks):
        whole = list(Plan(count, part * ranks, seed, rank, ranks).steps(0, start + 4))
        assert list(Plan(count, part * ranks, seed, rank, ranks).steps(start, start + 4)) == whole[start:]


def test_a_run_goes_on_with_another_number_of_ranks():
    """Three steps on two ranks and the rest on four are the same stream as all on one."""
    whole = global_order(plans(17, 8, 1, 5), 0, 9)
    assert global_order(plans(17, 4, 2, 5), 0, 3) + global_order(plans(17, 2, 4, 5), 3, 9) == whole


@settings(max_examples=30, deadline=None)
@given(COUNT, PART, RANKS, SEED, st.integers(0, 50))
def test_ranks_share_a_step_equally(count, part, ranks, seed, step):
    """Each rank gets batch / ranks samples, and no (epoch, sample) goes to two ranks."""
    parts = [plan.step(step) for plan in plans(count, part, ranks, seed)]
    assert {len(p) for p in parts} == {part}
    assert len({pair for p in parts for pair in p}) == part * ranks


def test_epochs_and_seeds_are_shuffled_differently():
    """Another epoch or another seed is another order, and the order is not the index's."""
    first, second = (
        [s for _, s in Plan(100, 100, 0).step(0)],
        [s for _, s in Plan(100, 100, 0).step(1)],
    )
    other = [s for _, s in Plan(100, 100, 1).step(0)]
    assert first != list(range(100))
    assert first != second
    assert first != other


def test_every_sample_can_come_first():
    """Over many seeds the first sample is any of them about equally often."""
    firsts = [Plan(5, 1, seed).step(0)[0][1] for seed in range(500)]
    assert all(60 <= firsts.count(s) <= 140 for s in range(5))


def test_a_single_sample_repeats_each_epoch():
    """One tile fills a batch of four with four epochs of itself."""
    assert Plan(1, 4, 0).step(2) == [(8, 0), (9, 0), (10, 0), (11, 0)]


def test_pairs_are_plain_integers():
    """Samples are Python ints, so that they seed generators and go into JSON."""
    assert {type(v) for pair in Plan(3, 3, 0).step(0) for v in pair} == {int}


def test_an_empty_data_set_is_refused():
    """A plan over nothing says that at least one tile is needed."""
    with pytest.raises(ValueError, match="0 tiles; at least 1"):
        Plan(0, 4, 0)


@pytest.mark.parametrize(("batch", "ranks", "better"), [(6, 4, 8), (1, 4, 4), (9, 2, 8)])
def test_a_batch_that_ranks_cannot_share_is_refused(batch, ranks, better):
    """The sentence names the key, both numbers and a batch that works."""
    with pytest.raises(ValueError, match=rf"data.batch={batch} .* {ranks} ranks; use {better} ") as error:
        Plan(10, batch, 0, 0, ranks)
    assert str(error.value).count("\n") == 0
    Plan(10, better, 0, 0, ranks)
