"""Checkpointed blocks give the same numbers in less memory."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mkd.config.load import load
from mkd.config.schema import SupervisedRun
from mkd.distributed.activation_checkpointing import checkpoint_blocks
from mkd.distributed.engine import Engine
from mkd.distributed.world import World
from mkd.models.architecture import Architecture
from mkd.models.build import build
from mkd.models.dropout import seed_dropout
from tests.helpers.processes.ranks import run_ranks
from tests.helpers.training.runs import CPU
from tests.mkd.distributed.trainings import same_bits, torch_threads

SMALL = {
    "hrnet_w18_small": Architecture("hrnet_w18_small", psa="paper", aspp_channels=16, decoder_channels=16),
    "lite0": Architecture("tf_efficientnet_lite0", "fpn", lateral_channels=16, decoder_channels=16),
}
HERE = "tests.mkd.distributed.test_activation_checkpointing"


def train(world, name, checkpointed, steps="3", diagnose=""):
    """Train a network on 4 tiles a step; return losses and the final state."""
    with torch_threads():
        model = build(SMALL[name], 3, seed=5)
        engine = Engine(
            world,
            model,
            torch.optim.AdamW(model.parameters(), 1e-3),
            checkpointed=model.backbone if checkpointed else None,
        )
        model.train()
        losses, mine = [], slice(world.rank * 4 // world.ranks, (world.rank + 1) * 4 // world.ranks)
        for step in range(int(steps)):
            g = torch.Generator().manual_seed(step)
            images, labels = (
                torch.rand(4, 3, 64, 64, generator=g),
                torch.randint(0, 3, (4, 64, 64), generator=g),
            )
            seed_dropout(model, 1, step, range(4)[mine], 4)
            loss = F.cross_entropy(engine.net(images[mine]), labels[mine]) / world.ranks
            if diagnose:  # as the ratio of L_EWC does: backward twice
                torch.autograd.grad(loss, [model.classifier.weight], retain_graph=True)
                torch.autograd.grad(loss, list(model.backbone.parameters()), retain_graph=True)
            engine.backward(loss)
            losses.append(float(world.all_reduce_sum(loss.detach())))
            engine.update()
        return {"losses": losses, "gradients": [], **engine.state_dict(), "notes": engine.notes}


@pytest.mark.parametrize("name", SMALL)
def test_same_losses_and_weights_to_the_bit(name):
    """Three steps with dropout and BatchNorm; a gradient that is looked at before changes nothing either."""
    plain = train(CPU, name, "")
    assert same_bits(plain, train(CPU, name, "1"))
    assert same_bits(plain, train(CPU, name, "1", diagnose="1"))
    assert plain["losses"][0] != plain["losses"][1]
    assert int(plain["model"]["backbone.body.bn1.num_batches_tracked"]) == 3


@pytest.mark.parametrize("name", SMALL)
def test_same_on_two_ranks(name, tmp_path):
    """The same over gloo, where BatchNorm asks the other rank again in the backward pass."""
    plain = run_ranks(f"{HERE}:train", 2, tmp_path / "plain", name, "")
    found = run_ranks(f"{HERE}:train", 2, tmp_path / "found", name, "1")
    for one, other in zip(plain, found, strict=True):
        assert same_bits(one, other)
    assert any("activation checkpointing" in note for note in found[0]["notes"])
    assert any("synchronised" in note for note in found[0]["notes"])


def peak_bytes(model, images, path):
    """Return the most bytes that tensors held above those at the start of a step, by torch's own account."""
    with torch.profiler.profile(profile_memory=True) as profiler:
        model(images).square().mean().backward()
    profiler.export_chrome_trace(str(path))
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    held, most = 0, 0
    for event in sorted(events, key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        most = max(most, held)
    return most


@pytest.mark.parametrize("name", SMALL)
def test_less_memory(name, tmp_path):
    """The peak of a step is smaller, what a block holds while it is computed again included."""
    model, images = build(SMALL[name], 3, seed=5).train(), torch.rand(2, 3, 128, 128)
    other = copy.deepcopy(model)
    checkpoint_blocks(other.backbone)
    peaks = [peak_bytes(m, images, tmp_path / "trace.json") for m in (model, other)]
    assert peaks[1] < 0.9 * peaks[0]


def test_a_copy_computes_with_its_own_weights():
    """A deep copy, such as the EMA's, is independent of the network that it was made of."""
    model = build(SMALL["lite0"], 3, seed=5).train()
    checkpoint_blocks(model.backbone)
    twin, images = copy.deepcopy(model), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert twin(images).std() > 0
    assert list(twin.state_dict()) == list(build(SMALL["lite0"], 3).state_dict())


def test_frozen_blocks_keep_their_statistics():
    """In eval mode nothing is computed twice, and no statistic moves."""
    model = build(SMALL["lite0"], 3, seed=5).train()
    model.backbone.eval().requires_grad_(False)
    before = copy.deepcopy(model.backbone.state_dict())
    checkpoint_blocks(model.backbone)
    model(torch.rand(2, 3, 64, 64)).sum().backward()
    assert all(torch.equal(t, before[name]) for name, t in model.backbone.state_dict().items())


def test_what_cannot_be_checkpointed_is_refused():
    """No blocks; together with the compiler."""
    with pytest.raises(ValueError, match="no sequence of blocks"):
        checkpoint_blocks(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()))
    model = nn.Conv2d(3, 3, 1)
    gpu = World.single("cuda")
    with pytest.raises(ValueError, match=r"compile=true and model.checkpointing=true"):
        Engine(gpu, model, torch.optim.SGD(model.parameters(), 0.1), compiles=True, checkpointed=model)


def test_it_may_change_at_a_resume(tmp_path):
    """The key is one of memory, not of the run."""
    from mkd.config.comparison import difference
    from mkd.config.run_config import to_yaml

    (tmp_path / "index.json").write_text("{}")
    given = [f"out={tmp_path}/run", f"data.labelled={tmp_path}", "model=lite0"]
    one, other = (
        load(SupervisedRun, "supervised", [*given, *more]) for more in ([], ["model.checkpointing=true"])
    )
    assert other.model.checkpointing
    assert difference(to_yaml(one), other) == ""
