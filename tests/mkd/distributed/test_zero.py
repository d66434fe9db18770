"""DeepSpeed's ZeRO trains as DDP and as one rank do, and its checkpoints are everybody's."""

import pytest
import torch

from mkd.distributed.engine import Engine
from tests.helpers.processes.ranks import run_ranks
from tests.helpers.training.nets import tiny_net
from tests.mkd.distributed.trainings import HERE, alone, difference, same_bits

SHORT = {"zero1": "kind=zero1", "ddp": "kind=ddp"}
MORE = {
    "zero2": "kind=zero2",
    "zero1 micro": "kind=zero1,micro=3",
    "zero2 micro": "kind=zero2,micro=3",
    "zero1 clipped": "kind=zero1,clip=0.05",
    "zero2 clipped": "kind=zero2,clip=0.05,micro=3",
    "zero1 frozen": "kind=zero1,frozen=1,diagnose=1",
    "zero2 diagnosed": "kind=zero2,diagnose=1,micro=3",
    "zero1 adamw": "kind=zero1,name=adamw,steps=8",
    "zero2 adamw": "kind=zero2,name=adamw,steps=8",
}


def alone_as(case):
    """Train a case on one rank; a micro-batch of all ranks is twice one of two ranks."""
    options = dict(pair.split("=") for pair in case.split(","))
    if "micro" in options:
        options["micro"] = str(2 * int(options["micro"]))
    return alone(**options)


def test_zero_is_ddp_is_one_rank(tmp_path):
    """Losses, weights, statistics and momentum after 20 steps are equal under zero1, ddp and on one rank."""
    one = alone()
    for by_kind in run_ranks(f"{HERE}:several", 2, tmp_path, *SHORT.values()):
        zero1, ddp = by_kind
        assert difference(one, zero1) < 1e-5
        assert difference(ddp, zero1) < 1e-5
        assert zero1["notes"][0] == "engine zero1: 2 ranks on cpu, float32"


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_every_option_under_zero(tmp_path, ranks):
    """Both stages with micro-batches, clipping, frozen layers, diagnoses and AdamW: one rank's results."""
    cases = {n: c for n, c in MORE.items() if ranks == 2 or n in ("zero1 frozen", "zero2")}
    by_rank = run_ranks(f"{HERE}:several", ranks, tmp_path, *cases.values())
    for n, case in enumerate(cases.values()):
        assert difference(alone_as(case), by_rank[0][n]) < 1e-5, case
        assert all(same_bits(by_rank[0][n], found[n]) for found in by_rank), case


@pytest.mark.slow
def test_a_resume_is_exact(tmp_path):
    """With the same engine and ranks a training that was interrupted is bit for bit the one that was not."""
    kinds = [f"kind={kind},name={name}" for kind in ("zero1", "zero2") for name in ("sgd", "adamw")]
    cases = []
    for n, same in enumerate(kinds):
        begun = f"{same},steps=6,state={tmp_path / str(n)}.pt"
        cases += [f"{same},steps=12", begun, f"{begun},first=6"]
    for found in run_ranks(f"{HERE}:several", 2, tmp_path / "out", *cases):
        for n in range(0, len(cases), 3):
            whole, begun, gone_on = found[n : n + 3]
            assert same_bits(whole, {**gone_on, "losses": begun["losses"] + gone_on["losses"]}), cases[n]


@pytest.mark.slow
def test_a_checkpoint_goes_on_under_any_engine_and_number_of_ranks(tmp_path):
    """zero1 on 2 ranks, ddp on 3, zero2 on 2, plain on 1, ddp on 2: together one training, for both optimizers."""
    names, losses = ("sgd", "adamw"), {"sgd": [], "adamw": []}
    for leg, (kind, ranks) in enumerate([("zero1", 2), ("ddp", 3), ("zero2", 2), ("plain", 1), ("ddp", 2)]):
        same = f"kind={kind},first={2 * leg},steps=2"
        cases = [f"{same},name={name},state={tmp_path / name}.pt" for name in names]
        if ranks == 1:
            found = [alone_as(case) for case in cases]
        else:
            found = run_ranks(f"{HERE}:several", ranks, tmp_path / f"leg{leg}", *cases)[0]
        for name, result in zip(names, found, strict=True):
            losses[name] += result["losses"]
            if leg == 0:
                is_torchs_own(result, alone(name=name, steps="2"))
    for name, result in zip(names, found, strict=True):
        assert difference(alone(name=name, steps="10"), {**result, "losses": losses[name]}) < 1e-5


def is_torchs_own(found, one):
    """Check that what zero gives has the keys, order and shapes of a plain run, and nothing of DeepSpeed."""
    assert list(found["model"]) == list(one["model"])
    assert found["optimizer"]["param_groups"] == one["optimizer"]["param_groups"]
    mine, other = found["optimizer"]["state"], one["optimizer"]["state"]
    assert {n: {k: v.shape for k, v in s.items()} for n, s in mine.items()} == {
        n: {k: v.shape for k, v in s.items()} for n, s in other.items()
    }


def explode(world):
    """Return what is said of a gradient that is infinite on one rank, where the loss is not."""
    said = []
    for kind in ("zero1", "zero2"):
        model = tiny_net()
        engine = Engine(world, model, torch.optim.SGD(model.parameters(), lr=0.1), kind=kind)
        loss = engine.net(torch.ones(1, 3, 8, 8)).sum()
        if world.is_main:
            loss.register_hook(lambda grad: grad * torch.inf)
        engine.backward(loss)
        try:
            engine.update()
        except ValueError as error:
            said.append(str(error))
    return {"said": said}


def test_an_infinite_gradient_ends_the_run(tmp_path):
    """DeepSpeed would leave out the update without a word."""
    for found in run_ranks("tests.mkd.distributed.test_zero:explode", 2, tmp_path):
        assert len(found["said"]) == 2
        assert all("gradient is not finite" in each for each in found["said"])
