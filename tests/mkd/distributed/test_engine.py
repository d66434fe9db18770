"""How a step runs on its device."""

import contextlib
import copy
import functools
import math
import sys

import pytest
import torch
from torch import nn

from mkd.distributed.engine import Engine, _compiled, autocast
from mkd.distributed.world import World
from mkd.distributed.zero import Zero
from mkd.models.dropout import seed_dropout
from tests.helpers.training.nets import tiny_net
from tests.helpers.training.runs import CPU
from tests.helpers.training.steps import global_batch, step_of


def one_weight(value=2.0):
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def engine_of(model, **options):
    return Engine(CPU, model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), **options)


def update(engine, loss):
    engine.backward(loss)
    engine.update()


@pytest.mark.parametrize(("clip", "gradient"), [(None, 8.0), (100.0, 8.0), (0.5, 0.5)])
def test_update_is_backward_clip_step(clip, gradient):
    """theta <- theta - lr g with |g| at most `clip`; g of 2 theta^2 at theta = 2 is 8."""
    model = one_weight()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    update(Engine(CPU, model, optimizer, clip=clip), (2 * model.weight**2).sum())
    assert model.weight.item() == pytest.approx(2 - 0.1 * gradient, rel=1e-4)


def test_clip_holds_for_the_norm_over_all_weights():
    """The direction stays, the length becomes `clip`."""
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    engine = Engine(CPU, model, torch.optim.SGD(model.parameters(), lr=1.0), clip=1.0)
    update(engine, (model.weight * torch.tensor([30.0, 40.0])).sum())
    assert model.weight[0].tolist() == pytest.approx([-0.6, -0.8], rel=1e-4)


def test_gradients_do_not_pile_up():
    """After an update no gradient is left for the next one."""
    model = one_weight()
    engine = Engine(CPU, model, torch.optim.SGD(model.parameters(), lr=0.0))
    for _ in range(2):
        update(engine, (2 * model.weight**2).sum())
        assert model.weight.grad is None


def test_micro_batches_add_up():
    """Gradients of all micro-batches are in one update."""
    model = one_weight()
    engine = Engine(CPU, model, torch.optim.SGD(model.parameters(), lr=0.1))
    for n in range(3):
        with engine.accumulating(n == 2):
            engine.backward(engine.net(torch.ones(1, 1)).sum())
    engine.update()
    assert model.weight.item() == pytest.approx(2 - 0.1 * 3)


def test_a_cpu_computes_in_float32():
    """Autocast is for GPUs: on a CPU a step's logits are float32."""
    model, image = tiny_net(), torch.rand(1, 3, 8, 8)
    with engine_of(model).autocast():
        assert not torch.is_autocast_enabled("cpu")
        assert model(image).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_computes_in_bfloat16_where_it_has_it(monkeypatch, native):
    """On a GPU the context is bf16 autocast, which needs no loss scaling; where bf16 is emulated, float32."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    context = autocast(torch.device("cuda"))
    if native:
        assert (context.device, context.fast_dtype) == ("cuda", torch.bfloat16)
    else:
        assert isinstance(context, contextlib.nullcontext)


def test_weights_are_moved_and_not_changed():
    """The engine lays weights out channels-last, and none of them changes."""
    model, other = tiny_net(), tiny_net()
    engine_of(model)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert math.isfinite(model(torch.rand(2, 3, 8, 8)).sum().item())


def test_a_state_is_torchs_own():
    """Model and optimizer go into the checkpoint as torch writes them, and come back."""
    model, images = tiny_net(), torch.rand(2, 3, 8, 8)
    engine = engine_of(model)
    update(engine, engine.net(images).square().sum())
    state = copy.deepcopy(engine.state_dict())
    assert state["model"].keys() == model.state_dict().keys()
    assert set(state["optimizer"]) == {"state", "param_groups"}
    other = engine_of(tiny_net(seed=5))
    other.load_state_dict(state)
    for run in (engine, other):
        run.model.eval()
        update(run, run.net(images).square().sum())
    mine, theirs = engine.state_dict(), other.state_dict()
    assert all(torch.equal(t, theirs["model"][n]) for n, t in mine["model"].items())


@pytest.mark.parametrize("kind", ["auto", "plain", "ddp", "zero1", "zero2"])
def test_one_rank_runs_plain_and_says_so(kind):
    """Whatever is asked, one rank needs no exchange: the model itself, its BatchNorm, and a line about it."""
    model = tiny_net()
    engine = engine_of(model, kind=kind)
    assert engine.net is model
    assert type(model[1]) is nn.BatchNorm2d
    (note,) = engine.notes
    instead = "" if kind in ("auto", "plain") else f" instead of {kind}, which is for several ranks"
    assert note == f"engine plain{instead}: 1 rank on cpu, float32"


def test_what_cannot_be_is_said(monkeypatch):
    """An unknown engine, one rank's engine for many, compiling for a CPU, and a missing package."""
    two = World(0, 2, torch.device("cpu"))
    model = tiny_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="engine=zero3.*auto, plain, ddp, zero1, zero2"):
        Engine(CPU, model, optimizer, kind="zero3")
    with pytest.raises(ValueError, match="engine=plain.*one rank, but there are 2.*engine=ddp"):
        Engine(two, model, optimizer, kind="plain")
    with pytest.raises(ValueError, match="compile=true.*cpu"):
        Engine(CPU, model, optimizer, compiles=True)
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(ValueError, match="engine=zero2 needs deepspeed.*engine=ddp"):
        Zero(two, model, optimizer, None, 2)


def test_a_compiled_step_may_ask_for_norms_of_gradients(monkeypatch):
    """The distillation step's diagnosis goes backward more than once through a compiled network."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    step = step_of(CPU, "kd")
    step.net = _compiled(step.model)
    step.train()
    for n in range(2):
        seed_dropout(step.model, 0, n, range(6), 6)
        losses = step(step.prepare(global_batch(n, True), 0.0), measure_gradients=n > 0)
        losses["loss"].backward()
    assert losses["ewc_ratio"] > 0
    assert all(p.grad is not None for p in step.model.parameters())
