"""The model of a step on many ranks: its formulas, their limits and their order."""

import math
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mkd.benchmarks.scaling.cost_model import (
    BUCKET,
    Fabric,
    Job,
    Link,
    all_gather_s,
    all_reduce_s,
    buckets,
    efficiency,
    exchange_s,
    exposed_s,
    predict,
    sent_bytes,
)

latencies = st.floats(0, 1e-3)
rates = st.floats(1e6, 1e12)
sizes = st.floats(0, 1e10)


@st.composite
def fabrics(draw):
    """Links between nodes are no faster than inside."""
    inside = Link(draw(latencies), draw(latencies), draw(rates))
    slower = [draw(st.floats(1, 100)) for _ in range(3)]
    outside = Link(inside.ring_s * slower[0], inside.tree_s * slower[1], inside.bytes_per_s / slower[2])
    return Fabric(draw(st.sampled_from([1, 2, 8])), inside, outside, draw(latencies))


jobs = st.builds(
    Job,
    forward_s=st.floats(1e-3, 10),
    backward_s=st.floats(1e-3, 10),
    grad_bytes=st.floats(1, 4e8),
    reads=st.floats(1, 64),
    batchnorm_layers=st.integers(0, 300),
    batchnorm_bytes=st.floats(0, 1e6),
    sums=st.floats(0, 30),
    exchange_bytes=st.floats(0, 1e8),
    hidden=st.floats(0, 1),
    jitter=st.floats(0, 0.2),
    data_tiles_per_s=st.floats(1, 1e5),
)
counts = st.integers(1, 600)
ONE_LINK = Fabric(1000, Link(2e-6, 3e-6, 1e9), Link(2e-6, 3e-6, 1e9), 1e-5)
NODES = Fabric(8, Link(1e-6, 2e-6, 1e11), Link(5e-6, 7e-6, 1e10), 1e-5)


def ring_played_through(size, ranks):
    """Count what rank 0 sends when a ring reduces `ranks` chunks and then passes the sums on."""
    chunk, sent = size / ranks, 0.0
    for _ in ("reduce", "pass on"):
        for _ in range(ranks - 1):
            sent += chunk
    return sent


@given(sizes, counts)
def test_an_all_reduce_sends_what_a_ring_sends(size, ranks):
    assert sent_bytes(size, ranks) == pytest.approx(ring_played_through(size, ranks), rel=1e-9)


def test_in_one_node_an_all_reduce_is_start_transfer_and_hops():
    expected = 1e-5 + 2 * 3 / 4 * 1e6 / 1e9 + 2 * 3 * 2e-6
    assert all_reduce_s(ONE_LINK, 1e6, 4) == pytest.approx(expected, rel=1e-12)


def test_over_nodes_the_shorter_of_ring_and_tree_counts():
    """32 ranks in 4 nodes: the ring has 2 x (28 + 3 x 5) us of hops, the tree 2 x (7 x 2 + 2 x 7) us."""
    moved = 2 * 7 / 8 * 1e6 / 1e11 + 2 * 3 / 4 * 1e6 / 1e10
    assert all_reduce_s(NODES, 1e6, 32) == pytest.approx(1e-5 + moved + min(86e-6, 56e-6), rel=1e-9)
    dear = replace(NODES, outside=replace(NODES.outside, tree_s=1.0))
    assert all_reduce_s(dear, 1e6, 32) == pytest.approx(1e-5 + moved + 86e-6, rel=1e-9)


def test_an_all_gather_takes_a_ring_through_all_ranks():
    moved = 31 * 100 / 1e11 + 24 * 100 / 1e10
    assert all_gather_s(NODES, 100, 32) == pytest.approx(1e-5 + 28e-6 + 3 * 5e-6 + moved, rel=1e-9)


def test_an_exchange_shares_the_link_between_nodes():
    assert exchange_s(NODES, 1e6, 8) == pytest.approx(1e-5 + 1e-6 + 1e-5, rel=1e-9)
    assert exchange_s(NODES, 1e6, 16) == pytest.approx(1e-5 + 5e-6 + 8e6 / 1e10, rel=1e-9)
    assert exchange_s(NODES, 0, 16) == 0


@given(fabrics(), sizes, counts)
def test_collectives_are_free_alone_and_never_cheaper_with_one_rank_more(fabric, size, ranks):
    for cost in (all_reduce_s, all_gather_s):
        assert cost(fabric, size, 1) == 0
        assert cost(fabric, size, ranks + 1) >= cost(fabric, size, ranks) * (1 - 1e-9)


@given(st.floats(1, 1e9))
def test_buckets_hold_all_gradients(size):
    found = buckets(size)
    assert math.fsum(found) == pytest.approx(size)
    assert all(0 < b <= BUCKET for b in found)


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(1, 1e8)), min_size=1, max_size=20), st.floats(0, 20))
def test_what_is_exposed_lies_between_the_last_bucket_and_all(pairs, backward):
    times, amounts = zip(*pairs, strict=True)
    exposed = exposed_s(times, amounts, backward)
    slack = 1e-9 * (backward + sum(times))
    assert times[-1] - slack <= exposed <= sum(times) + slack


def test_with_an_endless_backward_only_the_last_bucket_is_exposed_and_without_one_all_are():
    times, amounts = [1.0, 2.0, 0.5], [10.0, 20.0, 20.0]
    assert exposed_s(times, amounts, 1e6) == pytest.approx(0.5)
    assert exposed_s(times, amounts, 0.0) == pytest.approx(3.5)


@given(jobs, fabrics(), counts)
def test_efficiency_is_above_0_at_most_1_and_falls_with_the_ranks(job, fabric, ranks):
    alone, some, more = (predict(job, fabric, n) for n in (1, ranks, ranks + 1))
    assert 0 < efficiency(alone, some) <= 1 + 1e-9
    assert efficiency(alone, more) <= efficiency(alone, some) + 1e-9
    assert all(seconds >= 0 for seconds in asdict(some).values())


@given(jobs, fabrics())
def test_a_rank_alone_only_computes_and_waits_for_data(job, fabric):
    split = predict(job, fabric, 1)
    needs = max(job.forward_s + job.backward_s, job.reads / job.data_tiles_per_s)
    assert split.total == pytest.approx(needs)
    assert split.compute + split.data == pytest.approx(split.total)


@given(jobs, counts)
def test_without_latency_and_with_endless_links_only_stragglers_cost(job, ranks):
    """The limit of a perfect network is the step of one rank."""
    nothing = Link(0.0, 0.0, 1e300)
    job = replace(job, jitter=0.0)
    free = predict(job, Fabric(8, nothing, nothing, 0.0), ranks)
    assert efficiency(predict(job, ONE_LINK, 1), free) == pytest.approx(1.0)


def test_the_time_of_batchnorm_grows_with_its_layers_not_with_its_bytes():
    """One layer's exchange is latency; 300 of them cost 300 times as much."""
    job = Job(1.0, 1.0, 1e6, 1, batchnorm_layers=300, batchnorm_bytes=300 * 100)
    layer = all_gather_s(NODES, 100, 64) + all_reduce_s(NODES, 100, 64)
    assert predict(job, NODES, 64).batchnorm == pytest.approx(300 * layer)
    assert predict(replace(job, batchnorm_layers=0, batchnorm_bytes=0.0), NODES, 64).batchnorm == 0


@given(jobs, fabrics(), counts, st.floats(0, 1))
def test_hiding_more_of_the_all_reduce_never_costs_more(job, fabric, ranks, hidden):
    some, most = (predict(replace(job, hidden=h), fabric, ranks) for h in (min(hidden, job.hidden), 1.0))
    assert most.all_reduce <= some.all_reduce + 1e-12
