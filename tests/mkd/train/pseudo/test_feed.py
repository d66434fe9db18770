"""Full batches of accepted tiles: beside a plain reference, entered at any step, and when a teacher is gone."""

import io
import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mkd.semi.entropy import TileLimit
from mkd.teacher.api import TeachersGone
from mkd.teacher.local import LocalTeacher
from mkd.train.batches import FILTERED
from mkd.train.pseudo.audit_log import AuditLog
from mkd.train.pseudo.feed import LIMIT, PseudoFeed
from tests.helpers.shards import pictures, write_dataset
from tests.helpers.teacher.services import remote, service
from tests.helpers.training.nets import tiny_net
from tests.helpers.training.pseudo import SIDE, TILES, Scripted, monitor_of, numbered, numbers
from tests.helpers.training.runs import CPU, coloured, feed_of

patterns = st.lists(st.booleans(), min_size=1, max_size=40) | st.lists(
    st.sampled_from([False] * 9 + [True]), min_size=1, max_size=40
)
sizes = st.integers(1, 5)
depths = st.integers(0, 3)
steps = st.integers(1, 12)


def feed_with(teacher, size, audit_log=None):
    return PseudoFeed(numbered(size), size, teacher, monitor_of(teacher), CPU, audit_log)


def reference(pattern, size, steps):
    """Tile by tile: what each step trains on, what stands in, what was rejected, and what is left in the pool."""
    pool, trained, stand_ins, rejected, n = [], [], [], [], 0
    for _ in range(steps):
        mine, taken = [], 0
        while len(pool) < size and taken < LIMIT * size:
            for _ in range(size):  # a teacher is asked for whole batches
                (pool if pattern[n % len(pattern)] else mine).append(n)
                n, taken = n + 1, taken + 1
        trained.append(pool[:size])
        pool = pool[size:]
        missing = size - len(trained[-1])
        stand_ins.append(mine[len(mine) - missing :])
        rejected.append(mine)
    return trained, stand_ins, rejected, pool


@given(patterns, sizes, depths, steps)
@settings(max_examples=300)
def test_beside_a_plain_reference(pattern, size, depth, steps):
    """Tiles, their order, labels and stand-ins are those of a loop over single tiles, at any depth."""
    feed = feed_with(Scripted(pattern, depth), size)
    trained, stand_ins, _, pool = reference(pattern, size, steps)
    for mine, others in zip(trained, stand_ins, strict=True):
        batch = feed(0.5)
        assert numbers(batch.weak) == mine + others
        assert len(batch.generators) == len(batch.labels) == size
        for n, label in zip(mine, batch.labels, strict=False):
            assert (label[0] == 255).all()  # outside the tile
            assert (label[1:] == n % 3).all()
        assert (batch.labels[len(mine) :] >= FILTERED).all()
    state = feed.state_dict()
    assert [state["position"] * size - size + row for row in state["rows"]] == pool
    assert state["short"] == sum(len(others) for others in stand_ins)


@given(patterns, sizes, depths, steps)
def test_trained_and_rejected_are_the_plans_prefix(tmp_path_factory, pattern, size, depth, steps):
    """The ledger's tiles and the pool are the first tiles of the plan, each once; batches are full within the limit."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    feed = feed_with(Scripted(pattern, depth), size, AuditLog(path))
    for _ in range(steps):
        feed(0.0)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["step"] for r in rows] == list(range(1, steps + 1))
    for row in rows:
        assert len(row["trained"]) == size or len(row["rejected"]) > (LIMIT - 1) * size
        assert len(row["trained"]) <= size
    pool = [(feed.position - 1) * size + row for row in feed.state_dict()["rows"]]
    seen = [e * TILES + s for r in rows for kind in ("trained", "rejected") for e, s in r[kind]]
    assert sorted(seen + pool) == list(range(feed.position * size))
    for kind, accepted in (("trained", True), ("rejected", False)):
        tiles = [e * TILES + s for r in rows for e, s in r[kind]]
        assert all(pattern[n % len(pattern)] is accepted for n in tiles)


def saved(feed):
    """Pass the state through a file, as a checkpoint does."""
    buffer = io.BytesIO()
    torch.save(feed.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def same(one, other):
    draws = [[g.random() for g in batch.generators] for batch in (one, other)]
    return (
        torch.equal(one.weak, other.weak) and torch.equal(one.labels, other.labels) and draws[0] == draws[1]
    )


def same_state(one, other):
    tensors = one.pop("labels"), other.pop("labels")
    return one == other and torch.equal(*tensors)


@given(patterns, sizes, depths, steps, st.integers(0, 3), st.integers(0, 5))
@settings(max_examples=60)
def test_goes_on_at_any_step(tmp_path_factory, pattern, size, depth, steps, before, lost):
    """Killed some steps after a checkpoint and started again: the same batches, draws, ledger and end state."""
    folder = tmp_path_factory.mktemp("resume")
    whole = feed_with(Scripted(pattern, depth), size, AuditLog(folder / "whole"))
    killed = feed_with(Scripted(pattern, depth), size, AuditLog(folder / "killed"))
    for _ in range(before):
        assert same(whole(0.0), killed(0.0))
    state = saved(killed)
    for _ in range(lost):
        killed(0.0)
    with open(folder / "killed", "a") as file:
        file.write('{"step": 99, "tra')
    again = feed_with(Scripted(pattern, depth), size, AuditLog(folder / "killed"))
    again.load_state_dict(state)
    assert same_state(saved(again), saved(whole))
    for _ in range(steps):
        assert same(whole(0.0), again(0.0))
    assert same_state(saved(again), saved(whole))
    assert (folder / "killed").read_text() == (folder / "whole").read_text()


@given(patterns, sizes, depths)
def test_works_ahead_and_in_order(pattern, size, depth):
    """After a step `depth` batches are in flight, never more than that and one; each ticket once, in order."""
    teacher = Scripted(pattern, depth)
    feed = feed_with(teacher, size)
    for step in range(6):
        feed(step / 6)
        assert len(teacher.flight) == depth
    assert teacher.most == max(1, depth)
    assert [t for t, _ in teacher.submitted] == list(range(len(teacher.submitted)))
    assert teacher.collected == list(range(feed.position))
    progress = [p for _, p in teacher.submitted]
    assert progress == sorted(progress)


@given(patterns, sizes, depths, st.integers(0, 8))
def test_a_teacher_that_is_gone_leaves_the_step_before(pattern, size, depth, gone):
    """When collecting raises in the midst of a step, the state is the last whole step's, and going on loses nothing."""
    feed = feed_with(Scripted(pattern, depth, gone), size)
    whole = feed_with(Scripted(pattern, depth), size)
    for _ in range(gone + 1):
        before = saved(feed)
        try:
            batch = feed(0.0)
        except TeachersGone:
            assert same_state(before, saved(feed))
            break
        assert same(batch, whole(0.0))
    else:
        pytest.fail("each step collects at least one batch")
    again = feed_with(Scripted(pattern, depth), size)
    again.load_state_dict(saved(feed))
    for _ in range(4):
        assert same(whole(0.0), again(0.0))


def test_a_failed_step_must_be_gone_back_from():
    """What was collected in it is nowhere: to ask again without load_state_dict would lose tiles without a word."""
    feed = feed_with(Scripted([True, False, False], depth=2, gone=4), 2)
    done = []

    def steps(count):
        for _ in range(count):
            done.extend(numbers(feed(0.0).weak))

    with pytest.raises(TeachersGone):
        steps(9)
    with pytest.raises(AssertionError, match="load_state_dict first"):
        feed(0.0)
    feed.teacher.gone = None
    feed.teacher.load_state_dict({})
    feed.load_state_dict(saved(feed))
    steps(3)
    assert done == [3 * n for n in range(len(done))]


@pytest.mark.parametrize(("depth", "max_age"), [(0, 0), (2, 8)])
def test_services_that_are_gone_leave_the_step_before(depth, max_age):
    """As the script's teacher: feed, tile filter and monitor are those of the last whole step, though answers came."""
    limit = TileLimit(drop_start=0.7, drop_end=0.7, window=20)
    with service(said=[]) as server:
        terms = {"depth": depth, "max_age": max_age, "patience": 0.3}
        teacher = remote(tiny_net(), server.endpoint, limit=limit, said=[], **terms)
        feed = PseudoFeed(numbered(3), 3, teacher, monitor_of(teacher), CPU)
        for _ in range(3):
            feed(0.0)
        collect, collected = teacher.collect, []

        def until_second(ticket):
            collected.append(ticket)
            if len(collected) == 2:
                server.drain(1.0)
            return collect(ticket)

        teacher.collect = until_second
        for _ in range(12):
            before = saved(feed), limit.state_dict(), feed.monitor.state_dict()
            if not server.batcher.stopping.is_set():
                collected.clear()
            try:
                feed(0.0)
            except TeachersGone:
                break
        else:
            pytest.fail("the service must be gone")
        assert same_state(saved(feed), before[0])
        assert (limit.state_dict(), feed.monitor.state_dict()) == before[1:]
        teacher.close()


def test_stored_labels_need_no_teacher():
    """Candidates that come with labels are all taken, in order, with these labels, and resumed like others."""

    def labelled(first):
        for batch in numbered(3)(first):
            labels = torch.full((3, SIDE, SIDE), batch.ids[0][1] % 3, dtype=torch.uint8)
            yield replace(batch, labels=labels)

    teacher = Scripted([False], depth=2)
    whole, again = (PseudoFeed(labelled, 3, teacher, monitor_of(teacher), CPU) for _ in range(2))
    for step in range(5):
        if step == 3:
            again.load_state_dict(saved(whole))
        batch = whole(0.0)
        assert numbers(batch.weak) == [3 * step, 3 * step + 1, 3 * step + 2]
        assert (batch.labels[:, 1:] == 3 * step % TILES % 3).all()
        assert (batch.labels[:, 0] == 255).all()  # outside
        if step >= 3:
            assert same(batch, again(0.0))
    assert teacher.submitted == []
    assert math.isnan(whole.monitor.report().values["tile_entropy"])


def test_short_batches_are_logged_once_in_a_while(caplog):
    """With everything rejected each batch is stand-ins: logged at once, then every hundred steps, with the count."""
    feed = feed_with(Scripted([False]), 2)
    for _ in range(205):
        assert (feed(0.0).labels >= FILTERED).all()
    assert feed.position == 205 * LIMIT
    assert [text.split(":")[0] for text in caplog.messages] == ["step 1", "step 101", "step 201"]
    assert "0 of 2 tiles" in caplog.messages[0]
    assert "(202 of them so far)" in caplog.messages[1]


def test_nothing_is_logged_of_full_batches(caplog):
    """A filter that drops every other tile goes unnoticed."""
    feed = feed_with(Scripted([True, False]), 3)
    for _ in range(20):
        feed(0.0)
    assert caplog.messages == []


def test_real_tiles_with_the_local_teacher(tmp_path):
    """From shards, at every kill and with views made again: the same weak views, draws and labels to the bit."""
    labelled = write_dataset(tmp_path / "labelled", coloured(2, (16, 16)))
    mixed = coloured(3, (16, 16), seed=1) + pictures(3, (16, 16), seed=2)
    feed = feed_of(labelled, write_dataset(tmp_path / "other", mixed, labelled=False), crop=16, batch=3)

    def fresh():
        net = tiny_net()
        with torch.no_grad():
            net[4].weight *= 8
        teacher = LocalTeacher(net, 0.9, 0.5, TileLimit(drop_start=0.3, drop_end=0.3, window=8))
        return PseudoFeed(feed.candidates, 3, teacher, monitor_of(teacher), CPU)

    whole, states, batches = fresh(), [], []
    for _ in range(8):
        states.append((saved(whole), whole.teacher.tile_limit.state_dict()))
        batches.append(whole(0.2))
    assert any(state["rows"] for state, _ in states), "the case must have a pool"
    for step, (state, scores) in enumerate(states):
        again = fresh()
        again.teacher.tile_limit.load_state_dict(scores)
        again.load_state_dict(state)
        for batch in batches[step:]:
            mine = again(0.2)
            assert torch.equal(mine.weak, batch.weak)
            assert torch.equal(mine.labels, batch.labels)
        again.close()
    whole.close()
