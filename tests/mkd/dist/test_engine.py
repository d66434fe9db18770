"""How a step runs on its device."""

import math

import pytest
import torch
from torch import nn

from mkd.dist.engine import Engine, autocast
from tests.helpers.nets import tiny_net
from tests.helpers.runs import CPU


def one_weight(value=2.0):
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


@pytest.mark.parametrize(("clip", "gradient"), [(None, 8.0), (100.0, 8.0), (0.5, 0.5)])
def test_update_is_backward_clip_step(clip, gradient):
    """theta <- theta - lr g with |g| at most `clip`; g of 2 theta^2 at theta = 2 is 8."""
    model = one_weight()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Engine(CPU, model, clip).update((2 * model.weight**2).sum(), optimizer)
    assert model.weight.item() == pytest.approx(2 - 0.1 * gradient, rel=1e-4)


def test_clip_holds_for_the_norm_over_all_weights():
    """The direction stays, the length becomes `clip`."""
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    Engine(CPU, model, 1.0).update(
        (model.weight * torch.tensor([30.0, 40.0])).sum(), torch.optim.SGD(model.parameters(), lr=1.0)
    )
    assert model.weight[0].tolist() == pytest.approx([-0.6, -0.8], rel=1e-4)


def test_gradients_do_not_pile_up():
    """After an update no gradient is left for the next one."""
    model = one_weight()
    engine, optimizer = Engine(CPU, model, None), torch.optim.SGD(model.parameters(), lr=0.0)
    for _ in range(2):
        engine.update((2 * model.weight**2).sum(), optimizer)
        assert model.weight.grad is None


def test_a_cpu_computes_in_float32():
    """Autocast is for GPUs: on a CPU a step's logits are float32."""
    model, image = tiny_net(), torch.rand(1, 3, 8, 8)
    with Engine(CPU, model, None).autocast():
        assert not torch.is_autocast_enabled("cpu")
        assert model(image).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_a_gpu_computes_in_bfloat16():
    """On a GPU the context is bf16 autocast, which needs no loss scaling."""
    context = autocast(torch.device("cuda"))
    assert (context.device, context.fast_dtype) == ("cuda", torch.bfloat16)


def test_weights_are_moved_and_not_changed():
    """The engine lays weights out channels-last, and none of them changes."""
    model, other = tiny_net(), tiny_net()
    Engine(CPU, model, None)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert math.isfinite(model(torch.rand(2, 3, 8, 8)).sum().item())
