"""The stopwatch: time of nested calls on a clock that only moves when told, and what it leaves behind."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mkd.benchmarks.step.stopwatch import CALLS, PARTS, Stopwatch
from mkd.train import batches


def clocked():
    """Return a watch on a clock of our own, and a function that lets time pass."""
    now = SimpleNamespace(s=0.0, waits=0)
    watch = Stopwatch(lambda: setattr(now, "waits", now.waits + 1), lambda: now.s)
    return watch, lambda s: setattr(now, "s", now.s + s), now


def test_a_call_counts_without_the_watched_calls_inside_it():
    """augment 1 + 2 around copy 4; what no part takes is other; the device is waited for at each border."""
    watch, sleep, now = clocked()
    copy = watch.watched("copy", lambda s: (sleep(s), "copied")[1])

    def views(s):
        sleep(1)
        assert copy(s) == "copied"
        sleep(2)

    watch.start()
    sleep(8)
    watch.watched("augment", views)(4)
    watch.stop()
    assert watch.seconds == {"other": 8, "augment": 3, "copy": 4}
    assert now.waits == 6  # start, stop, and both ends of two calls


def test_a_watch_that_stands_still_counts_nothing():
    """Before the start and after the stop; not even the device is waited for."""
    watch, sleep, now = clocked()
    call = watch.watched("copy", sleep)
    call(1)
    watch.start()
    watch.stop()
    call(1)
    assert watch.seconds == {"other": 0}
    assert now.waits == 2


def test_a_call_that_fails_is_closed():
    """Its time counts, and what follows counts for others."""
    watch, sleep, _ = clocked()

    def fail():
        sleep(1)
        raise ValueError

    watch.start()
    with pytest.raises(ValueError):  # noqa: PT011
        watch.watched("copy", fail)()
    sleep(2)
    watch.stop()
    assert watch.seconds == {"copy": 1, "other": 2}


TREES = st.recursive(
    st.just([]), lambda inner: st.lists(st.tuples(st.sampled_from("abc"), inner), max_size=3), max_leaves=12
)


@given(TREES)
def test_the_parts_add_up_to_the_time(tree):
    """Whatever calls whatever: each spends one second of its own, and all seconds are counted once."""
    watch, sleep, now = clocked()
    spent = {}

    def spend(part, calls):
        sleep(1)
        spent[part] = spent.get(part, 0) + 1
        for name, inner in calls:
            watch.watched(name, spend)(name, inner)

    watch.start()
    spend("other", tree)
    watch.stop()
    assert {part: s for part, s in watch.seconds.items() if s} == spent
    assert sum(watch.seconds.values()) == now.s


def test_everything_is_given_back():
    """Outside the block the product's calls are its own; inside all of them are watched."""
    before = [getattr(owner, name) for _, owner, name in CALLS]
    opened = batches.stream
    with Stopwatch(lambda: None).watching():
        assert all(getattr(owner, name) is not b for (_, owner, name), b in zip(CALLS, before, strict=True))
        assert batches.stream is not opened
    assert [getattr(owner, name) for _, owner, name in CALLS] == before
    assert batches.stream is opened
    assert {part for part, _, _ in CALLS} < set(PARTS)
