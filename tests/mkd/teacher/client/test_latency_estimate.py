"""How long a teacher takes, as a student reckons: one slow answer is seen at once, and not for ever."""

import pytest

from mkd.teacher.client.latency_estimate import FAR, JITTER, OVERDUE, RETRY, LatencyEstimate


def pace_of(*seconds, tiles=4):
    """Return a pace after answers that took so long, one after the other, and the time then."""
    pace, now = LatencyEstimate(), 100.0
    pace.begin(now)
    for taken in seconds:
        now += taken
        pace.answer(now, tiles, True)
    return pace, now


def test_one_slow_answer_counts_by_its_seconds():
    """After many answers of 0.05 s one of 15 s makes the next one expected in 3 s; a mean of rates would say 0.06."""
    pace, now = pace_of(*[0.05] * 20, 15.0)
    assert pace.expected(now, 0.0125, 4, 0, 0) == pytest.approx(0.8 * 0.05 + 0.2 * 15.0)


def test_what_is_outstanding_comes_first():
    """Tiles asked before are labelled before; an answer that costs no work only starts the clock again."""
    pace, now = pace_of(2.0)
    assert pace.expected(now, 0.5, 4, 8, 4) == pytest.approx(12 * 0.5)
    pace.answer(now + 100.0, 4, worked=False)
    assert pace.seconds == 0.5


def test_one_that_is_late_is_expected_later():
    """An answer expected in 2 s that is not there after 7 s is reckoned to take 5 s longer."""
    pace, now = pace_of(2.0)
    pace.begin(now)
    assert pace.expected(now + 7.0, 0.5, 4, 4, 4) == pytest.approx(8 * 0.5 + 5.0)
    assert pace.expected(now + 1.0, 0.5, 4, 4, 4) == pytest.approx(8 * 0.5)


def test_a_teacher_that_was_far_slower_is_tried_again():
    """Once it was not asked for a while; what is a little slower, or has work, stays what it is."""
    pace, now = pace_of(36.0)  # 9 s a tile
    assert pace.expected(now + RETRY - 1, 1.0, 2, 0, 0) == 18.0
    assert pace.expected(now + RETRY + 1, 1.0, 2, 0, 0) == 2.0
    assert pace.expected(now + RETRY + 1, 9.0 / FAR, 2, 0, 0) == 18.0
    pace.begin(now + 100.0)
    assert pace.expected(now + 100.0, 1.0, 2, 2, 2) == 36.0
    assert LatencyEstimate().expected(now, 3.0, 2, 0, 0) == 6.0


def test_overdue():
    """Several times what such an answer has taken; never where nothing is known, and short times are jitter."""
    pace, now = pace_of(4.0)
    pace.begin(now)
    assert not pace.overdue(now + OVERDUE * 4.0 - 0.1, 1.0, 4)
    assert pace.overdue(now + OVERDUE * 4.0 + 0.1, 1.0, 4)
    assert pace.overdue(now + OVERDUE * FAR * 0.4 + 0.1, 0.1, 4), "beside a far faster one sooner"
    assert not LatencyEstimate().overdue(now, 1.0, 4)
    pace, now = pace_of(0.001)
    assert not pace.overdue(now + OVERDUE * JITTER - 0.1, 1.0, 4)
