"""Weights cross to the CPU in one piece, and arrive as they were."""

import json

import pytest
import torch
from safetensors.torch import save
from torch.utils._python_dispatch import TorchDispatchMode

from mkd.semi.ema import EMA
from mkd.teacher import weights
from mkd.teacher.protocol import WeightsVersion
from mkd.teacher.weights_snapshot import WeightsSnapshot
from tests.helpers.training.nets import tiny_net

HEADER = WeightsVersion("job.2", 7, 9)
ABOUT = {"session": "job.2", "version": "7", "updates": "9"}
COPIES = ("copy_", "_foreach_copy_", "_to_copy", "clone")


class Copies(TorchDispatchMode):
    """Counts the calls that move contents of tensors."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in COPIES
        return func(*args, **(kwargs or {}))


def state_of(layout):
    """Return an average with tensors of two dtypes, in a memory format."""
    return EMA(tiny_net().to(memory_format=layout), 0.9).state


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_same_bytes_on_the_wire(layout):
    """The file is the one made of each tensor by itself: the same header, whose order is no promise, and bytes."""
    state = state_of(layout)
    assert {t.dtype for t in state.values()} == {torch.float32, torch.int64}
    one_by_one = save({name: t.cpu().contiguous() for name, t in state.items()}, ABOUT)
    found = weights.to_bytes(WeightsSnapshot.of(state).on_cpu().tensors(), HEADER)
    ends = [8 + int.from_bytes(blob[:8], "little") for blob in (found, one_by_one)]
    assert ends[0] == ends[1]
    assert found[ends[0] :] == one_by_one[ends[0] :]
    assert json.loads(found[8 : ends[0]]) == json.loads(one_by_one[8 : ends[0]])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_three_copies_whatever_the_number_of_tensors(layout):
    """One call for each of the two dtypes, and one for the way to the CPU; formats are kept."""
    state = state_of(layout)
    with Copies() as copies:
        found = WeightsSnapshot.of(state).on_cpu().tensors()
    assert copies.count == 3 < len(state)
    with Copies() as single:
        [t.detach().clone() for t in state.values()]
    assert single.count == len(state)
    assert all(found[n].stride() == t.stride() and torch.equal(found[n], t) for n, t in state.items())


def test_later_updates_change_nothing():
    """The copy is of one moment, on the weights' device and on the CPU."""
    state = state_of(torch.channels_last)
    before = {name: t.clone() for name, t in state.items()}
    snapshot = WeightsSnapshot.of(state)
    on_cpu = snapshot.on_cpu()
    for t in state.values():
        t.add_(1)
    for found in (snapshot.tensors(), on_cpu.tensors()):
        assert all(torch.equal(t, before[n]) for n, t in found.items())
    for t in snapshot.tensors().values():
        t.zero_()
    assert all(torch.equal(t, before[n]) for n, t in on_cpu.tensors().items())
