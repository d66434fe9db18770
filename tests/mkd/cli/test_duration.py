"""A time left, in words."""

import pytest

from mkd.cli.duration import duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3599, "1 h 0 min"),
        (18600, "5 h 10 min"),
        (537288, "6 d 5 h"),
    ],
)
def test_two_units_that_fit(seconds, words):
    """Seconds, minutes, hours with minutes, days with hours."""
    assert duration(seconds) == words
