"""BatchNorm over ranks is BatchNorm of the whole batch, values and gradients."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d
from torch import nn

from mkd.distributed.sync_batchnorm import CpuBatchNorm, GpuBatchNorm, synchronise, training_statistics
from mkd.models.aspp import PooledBatchNorm
from tests.helpers.processes.ranks import run_ranks
from tests.helpers.training.nets import tiny_net

HERE = "tests.mkd.distributed.test_sync_batchnorm"
CPU = torch.device("cpu")
KINDS = {
    "plain": nn.BatchNorm2d,
    "bare": lambda c: nn.BatchNorm2d(c, affine=False),
    "pooled": PooledBatchNorm,
    "cumulative": lambda c: nn.BatchNorm2d(c, momentum=None),
    "untracked": lambda c: nn.BatchNorm2d(c, track_running_stats=False),
    "activated": lambda c: BatchNormAct2d(c, act_layer=nn.ReLU6),
}
case = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(sorted(KINDS)),
        "tiles": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "channels": st.integers(1, 5),
        "size": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "level": st.sampled_from([0.0, -3.0, 100.0]),
        "channels_last": st.booleans(),
        "seed": st.integers(0, 1000),
    }
)


def make(spec):
    """Return a fresh module of a case with weights and statistics of its own, the whole batch and a weighting."""
    g = torch.Generator().manual_seed(spec["seed"])
    module = KINDS[spec["kind"]](spec["channels"]).double().train()
    for t in [*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())]:
        t.data.copy_(0.5 + torch.rand(t.shape, generator=g))
    shape = (sum(spec["tiles"]), spec["channels"], *spec["size"])
    x = spec["level"] + torch.randn(shape, generator=g, dtype=torch.double)
    if spec["channels_last"]:
        x = x.contiguous(memory_format=torch.channels_last)
    return module, x, torch.randn(shape, generator=g, dtype=torch.double)


def passes(module, x, weighting):
    """Make two training passes; return y, the gradients of a weighted sum of the second, and the state."""
    x = x.clone().requires_grad_(True)
    module(x.detach() * 1.5)
    y = module(x)
    given = [x, *module.parameters()]
    gradients = torch.autograd.grad((y * weighting).sum(), given)
    state = {k: v.double() for k, v in module.state_dict().items()}
    return y.detach(), list(gradients), state, y.is_contiguous(memory_format=torch.channels_last)


def compare(world):
    """Let hypothesis compare this rank's part of any case with the whole batch on one process."""
    tried = []

    @settings(max_examples=40, derandomize=True, deadline=None, database=None)
    @given(spec=case)
    def is_one_batch(spec):
        tried.append(spec["kind"])
        # all ranks judge by the worst of them, so that all look for the same simplest case
        assert world.gather(torch.tensor([worst(world, spec)])).max() < 1e-8

    is_one_batch()
    return tried


def worst(world, spec):
    """Return the largest error of a case on this rank."""
    module, x, weighting = make(spec)
    y, gradients, state, _ = passes(copy.deepcopy(module), x, weighting)
    begin = sum(spec["tiles"][: world.rank])
    mine = slice(begin, begin + spec["tiles"][world.rank])
    parameters = list(module.parameters())
    assert synchronise(module, CPU) == 1
    assert all(p is q for p, q in zip(parameters, module.parameters(), strict=True))
    y_m, gradients_m, state_m, last = passes(module, x[mine], weighting[mine])
    assert last or not spec["channels_last"]
    gradients_m[1:] = [world.all_reduce_sum(g) for g in gradients_m[1:]]
    assert state.keys() == state_m.keys()
    wanted = [y[mine], gradients[0][mine], *gradients[1:], *state.values()]
    found = [y_m, *gradients_m, *state_m.values()]
    return max((a - b).abs().max().item() for a, b in zip(wanted, found, strict=True))


def test_two_ranks_are_one_batch(tmp_path):
    """Any kind, shape, level, memory format, unequal parts: y, gradients and statistics of the whole batch."""
    for tried in run_ranks(f"{HERE}:compare", 2, tmp_path):
        assert len(tried) >= 40
        assert set(tried) == set(KINDS)


def singles(world):
    """Use one value a channel on each rank, then the evaluation mode, in float32."""
    module = PooledBatchNorm(3).train()
    synchronise(module, CPU)
    x = torch.arange(3.0)[None, :, None, None] * (world.rank + 1)
    y = module(x)
    tracked, statistics = int(module.num_batches_tracked), module.running_mean.clone()
    at_rest = module.eval()(x)
    return {"y": y.detach(), "tracked": tracked, "mean": statistics, "rest": at_rest.detach()}


def test_one_value_a_rank_has_a_variance_over_ranks(tmp_path):
    """PooledBatchNorm's way out is for a global batch of one value; two ranks with one each have two."""
    x = torch.stack([torch.arange(3.0), 2 * torch.arange(3.0)])[:, :, None, None]
    whole = nn.BatchNorm2d(3).train()
    wanted = whole(x).detach()
    for rank, found in enumerate(run_ranks(f"{HERE}:singles", 2, tmp_path)):
        assert torch.allclose(found["y"], wanted[rank : rank + 1], atol=1e-6)
        assert found["tracked"] == 1
        assert torch.allclose(found["mean"], whole.running_mean)
        assert torch.allclose(found["rest"], whole.eval()(x)[rank : rank + 1], atol=1e-6)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_names_and_evaluation_stay(device):
    """Conversion changes neither names nor weights nor what evaluation gives; GPUs get torch's own."""
    model = nn.Sequential(tiny_net(), BatchNormAct2d(3, act_layer=nn.ReLU6)).eval()
    x, before = torch.randn(2, 3, 8, 8), copy.deepcopy(model)
    norms = [model[0][1], model[1]]
    assert synchronise(model, torch.device(device)) == 2
    assert model.state_dict().keys() == before.state_dict().keys()
    assert torch.equal(model(x), before(x))
    kind = GpuBatchNorm if device == "cuda" else CpuBatchNorm
    assert [type(m) for m in norms] == [kind, kind]
    assert issubclass(GpuBatchNorm, nn.SyncBatchNorm)
    assert torch.equal(copy.deepcopy(model)(x), before(x))


def test_statistics_of_layers_that_train():
    """Only BatchNorm in training mode has statistics that a step changes; counters are no statistics."""
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(3))
    model[0].eval()
    found = training_statistics(model)
    assert [t.data_ptr() for t in found] == [
        model[1].running_mean.data_ptr(),
        model[1].running_var.data_ptr(),
    ]
