"""Published weights: read back to the bit, and anything else refused."""

import pytest
import torch
from safetensors.torch import save

from mkd.semi.ema import EMA
from mkd.teacher import weights
from mkd.teacher.protocol import ProtocolError, WeightsVersion
from tests.helpers.training.nets import tiny_net

HEADER = WeightsVersion("job.2", 7, 9)


def blob_of(net):
    return weights.to_bytes(EMA(net, 0.9).state, HEADER)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_read_back_to_the_bit(dtype):
    """Whatever the student's dtype, its float32 average arrives, integer buffers too."""
    net = tiny_net().to(dtype)
    layout = weights.layout(net)
    state, header = weights.from_bytes(blob_of(net), layout)
    assert header == HEADER
    average = EMA(net, 0.9).state
    assert state.keys() == average.keys()
    assert all(torch.equal(t, average[n]) and t.dtype == average[n].dtype for n, t in state.items())


def test_size_limit():
    """The limit lets the weights pass and little more."""
    net = tiny_net()
    most = weights.most_bytes(weights.layout(net))
    assert len(blob_of(net)) <= most < len(blob_of(net)) + 20000


def changed(state, name, t):
    return {**state, name: t}


def test_other_weights_are_refused():
    """A missing tensor, one too much, another shape, another dtype: the first one is named."""
    net = tiny_net()
    layout, state = weights.layout(net), dict(net.state_dict())
    first = next(iter(state))
    missing = {k: v for k, v in state.items() if k != first}
    for bad in (
        missing,
        changed(state, "aa", torch.zeros(1)),
        changed(state, first, state[first][:2].clone()),
        changed(state, first, state[first].double()),
    ):
        with pytest.raises(ProtocolError, match=r"1 tensors differ, first (0\.weight|aa)"):
            weights.from_bytes(weights.to_bytes(bad, HEADER), layout)


def test_damaged_files_are_refused(tmp_path):
    """Truncated at any byte, without a header, with a header of another kind, or random bytes."""
    net = tiny_net()
    layout, blob = weights.layout(net), blob_of(net)
    for bad in [blob[:n] for n in range(0, len(blob), 7)] + [bytes(100), save({"a": torch.zeros(1)})]:
        with pytest.raises(ProtocolError):
            weights.from_bytes(bad, layout)
    about = {"session": "a", "version": "many", "updates": "0"}
    with pytest.raises(ProtocolError):
        weights.from_bytes(save(dict(net.state_dict()), about), layout)


def test_the_file(tmp_path):
    """A file is replaced whole; a damaged one is named with what to do."""
    net, path = tiny_net(), tmp_path / "teacher" / "weights.safetensors"
    weights.write_file(path, blob_of(net))
    assert weights.read_file(path, weights.layout(net))[1] == HEADER
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="weights.safetensors.*delete it"):
        weights.read_file(path, weights.layout(net))
