"""The EMA against plain Python floats, in bfloat16's presence, and across a checkpoint."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mkd.semi.ema import EMA
from tests.helpers.training.nets import perturb, tiny_net


class Weight(nn.Module):
    """One weight, one floating buffer, one integer buffer."""

    def __init__(self, value, dtype=torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value], dtype=dtype))
        self.register_buffer("mean", torch.tensor([10.0 * value], dtype=dtype))
        self.register_buffer("seen", torch.tensor(0))

    def set(self, value, seen=0):
        with torch.no_grad():
            self.weight.fill_(value)
            self.mean.fill_(10 * value)
            self.seen.fill_(seen)


def snapshot(ema):
    return {n: t.clone() for n, t in ema.state.items()}


@pytest.mark.parametrize("max_decay", [0.0, 0.5, 0.9, 0.999])
def test_equals_the_recursion(max_decay):
    """theta_T <- a theta_T + (1 - a) theta_S with a = min(1 - 1/(t + 1), max_decay), buffers included."""
    values = [0.3, -1.0, 2.0, 0.7, 5.0, -0.2, 1.1, 0.4]
    model = Weight(values[0])
    ema, slow = EMA(model, max_decay), values[0]
    for t, value in enumerate(values[1:]):
        model.set(value, seen=t + 1)
        a = min(1 - 1 / (t + 1), max_decay)
        assert ema.decay() == pytest.approx(a)
        ema.update(model)
        slow = a * slow + (1 - a) * value
        assert ema.state["weight"].item() == pytest.approx(slow, rel=1e-5)
        assert ema.state["mean"].item() == pytest.approx(10 * slow, rel=1e-5)
        assert ema.state["seen"].item() == t + 1
    assert ema.updates == len(values) - 1


def test_the_start_is_a_plain_mean():
    """While 1 - 1/(t+1) is below max_decay, the average is the mean of all students so far."""
    model = Weight(99.0)
    ema = EMA(model)
    for value in (1.0, 2.0, 6.0):
        model.set(value)
        ema.update(model)
    assert ema.state["weight"].item() == pytest.approx(3.0)


def test_the_first_update_is_the_student():
    """a = 0 at t = 0: the average becomes the student to the bit."""
    model = tiny_net()
    ema = EMA(model)
    perturb(model, 1)
    ema.update(model)
    assert all(torch.equal(t, ema.state[n]) for n, t in model.state_dict().items())


def test_the_average_is_a_copy():
    """Training the student in place does not move the average before an update."""
    model = tiny_net()
    ema = EMA(model)
    before = snapshot(ema)
    perturb(model, 1)
    assert all(torch.equal(t, before[n]) for n, t in ema.state.items())


def test_integer_buffers_are_copied():
    """BatchNorm's step counter follows the student and keeps its type."""
    model = tiny_net()
    ema = EMA(model)
    for step in range(5):
        perturb(model, step)
        ema.update(model)
    assert ema.state["1.num_batches_tracked"].dtype == torch.int64
    assert ema.state["1.num_batches_tracked"].item() == 5


def test_a_bfloat16_student_loses_no_update():
    """At a = 0.999 a bfloat16 average would stand still; the float32 one follows the formula."""
    model, naive = Weight(0.0, torch.bfloat16), torch.zeros((), dtype=torch.bfloat16)
    ema = EMA(model)
    ema.updates = 10_000  # far into training: a is at its bound
    model.set(1.0)
    naive += 1.0
    naive_start = naive.clone()
    ema.state["weight"].fill_(1.0)
    model.set(2.0)
    for _ in range(500):
        ema.update(model)
        naive = 0.999 * naive + 0.001 * model.weight.detach()[0]
    assert naive == naive_start
    assert ema.state["weight"].dtype == torch.float32
    assert ema.state["weight"].item() == pytest.approx(2 - 0.999**500, rel=1e-4)


def test_goes_on_from_its_state():
    """An average that took up another's state goes on like it, to the bit."""
    model = tiny_net()
    ema = EMA(model, 0.9)
    for step in range(4):
        perturb(model, step)
        ema.update(model)
    other = EMA(tiny_net(seed=9), 0.9)
    other.load_state_dict(copy.deepcopy(ema.state_dict()))
    for step in range(4, 8):
        perturb(model, step)
        ema.update(model)
        other.update(model)
    assert other.updates == ema.updates == 8
    assert all(torch.equal(t, ema.state[n]) for n, t in other.state.items())


@pytest.mark.parametrize("max_decay", [1.0, -0.1, 1.5])
def test_a_decay_outside_its_range_is_refused(max_decay):
    """a = 1 would never move; the sentence names the key and the range."""
    with pytest.raises(ValueError, match=rf"semi.ema_decay is {max_decay}.*\[0, 1\)"):
        EMA(tiny_net(), max_decay)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-100, 100, width=32),
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=8),
    st.floats(0, 0.999),
)
def test_lies_between_average_and_student(start, values, max_decay):
    """Each update moves the average towards the student and never past it."""
    model = Weight(start)
    ema = EMA(model, max_decay)
    for value in values:
        before = ema.state["weight"].item()
        model.set(value)
        ema.update(model)
        low, high = sorted([before, value])
        slack = 1e-5 * max(abs(low), abs(high))
        assert low - slack <= ema.state["weight"].item() <= high + slack
