"""Who decodes what: each part once, one's own first, another's only where one would stand idle."""

from hypothesis import given
from hypothesis import strategies as st

from mkd.loader.workers.scheduler import MAX_IN_FLIGHT, WorkStealingScheduler

EVENTS = st.lists(st.tuples(st.sampled_from(["add", "done"]), st.integers(0, 2)), max_size=60)


@given(EVENTS, st.booleans())
def test_each_part_is_given_once(events, shared):
    """Whatever the order of work and answers: nothing is lost, nobody has too much, and nobody idles needlessly."""
    given_to, busy, added = [], [0, 0, 0], 0

    def give(who, part):
        given_to.append((who, part))
        busy[who] += 1
        assert busy[who] <= MAX_IN_FLIGHT

    scheduler = WorkStealingScheduler(3, give, shared)
    for what, who in events:
        if what == "add":
            scheduler.add(who, (who, added))
            added += 1
        elif busy[who]:
            busy[who] -= 1
            scheduler.done(who)
        scheduler.steal()
        waiting = added - len(given_to)
        if shared and waiting:
            assert 0 not in busy
    for _ in range(added):
        for who in range(3):
            if busy[who]:
                busy[who] -= 1
                scheduler.done(who)
        scheduler.steal()
    assert sorted(part for _, (_, part) in given_to) == list(range(added))
    if not shared:
        assert all(who == owner for who, (owner, _) in given_to)
    for owner in range(3):  # in order, whoever does them
        its = [part for _, (whose, part) in given_to if whose == owner]
        assert its == sorted(its)


def test_nothing_is_taken_from_who_keeps_up():
    """Processes that are equally fast do their own parts alone: neighbours in a shard stay together."""
    given_to = []
    scheduler = WorkStealingScheduler(2, lambda who, part: given_to.append((who, part)), may_steal=True)
    for number in range(3):
        for who in range(2):
            scheduler.add(who, (who, number))
    scheduler.steal()
    for number in range(3, 20):
        for who in range(2):
            scheduler.done(who)
        scheduler.steal()
        for who in range(2):
            scheduler.add(who, (who, number))
        scheduler.steal()
    assert all(who == owner for who, (owner, _) in given_to)


def test_the_one_furthest_behind_is_helped():
    """An idle process takes the oldest part of the longest queue."""
    given_to = []
    scheduler = WorkStealingScheduler(3, lambda who, part: given_to.append((who, part)), may_steal=True)
    for part in range(4):
        scheduler.add(0, part)
    for part in range(4, 9):
        scheduler.add(1, part)
    scheduler.steal()
    assert given_to[-1] == (2, 6)
