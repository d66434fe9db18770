"""The search for what fits, against trying everything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mkd.benchmarks.settings import StepSpeedRun
from mkd.benchmarks.step.largest import config_line, fitting, largest, measure_fit


@given(
    limit=st.integers(0, 3000), least=st.integers(1, 64), unit=st.integers(1, 40), most=st.integers(64, 2000)
)
def test_it_is_the_one_that_trying_everything_finds(limit, least, unit, most):
    """With few tries, and none beyond the most."""
    tried = []

    def fits(n):
        tried.append(n)
        return n <= limit

    everything = [n for n in range(least, most + 1, unit) if n <= limit]
    assert largest(fits, least, unit, most) == (everything[-1] if everything else None)
    assert max(tried) <= most
    assert len(tried) == len(set(tried)) <= 2 * len(bin((most - least) // unit)) + 1


def test_batch_and_crop_are_searched_one_at_a_time():
    """Memory as batch x crop x crop: the largest batch at the given crop, the largest crop at the given batch."""
    config = StepSpeedRun(crop=512, batch=4)

    def fits(tried):
        return tried.batch * tried.crop**2 <= 11 * 512**2

    found = fitting(config, fits)
    assert found == [(11, 512), (4, 832)]  # 512 sqrt(11 / 4) = 849
    assert config_line(found[0]) == "data.batch=11 data.crop=512"
    assert fitting(config, lambda _: False) == [None, None]
    assert config_line(None) == "not even the smallest fits"


def test_a_cpu_is_refused():
    """One sentence; nothing has been tried."""
    with pytest.raises(
        ValueError, match=r"fit=true: it looks for .* GPU's memory, but this run computes on cpu"
    ):
        measure_fit(StepSpeedRun(device="cpu", fit=True, out="/nowhere"))
