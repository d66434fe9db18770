"""Several ranks train as one does: on real gloo processes against one process with the whole batch."""

import os

import pytest
import torch

from tests.helpers.processes.ranks import run_ranks, start_ranks
from tests.mkd.distributed.trainings import HERE, Net, alone, batch, difference, same_bits, train

CASES = {
    "whole": "kind=auto",
    "micro": "micro={half}",
    "clipped": "clip=0.05",
    "frozen": "frozen=1,diagnose=1",
    "diagnosed": "diagnose=1",
    "adamw": "name=adamw,steps=8",
}


@pytest.fixture(scope="module", params=[2, 3])
def results(request, tmp_path_factory):
    """Train all cases on 2 and on 3 ranks; give the results of each rank by case."""
    ranks = request.param
    cases = [c.format(half=6 // ranks) for c in CASES.values()]
    by_rank = run_ranks(f"{HERE}:several", ranks, tmp_path_factory.mktemp("ranks"), *cases)
    return [dict(zip(CASES, found, strict=True)) for found in by_rank]


def options_of(case):
    """Return the options of a case for one rank."""
    return dict(pair.split("=") for pair in CASES[case].format(half=6).split(","))


@pytest.mark.parametrize("case", CASES)
def test_ranks_with_a_part_each_are_one_rank_with_all(results, case):
    """Losses, gradients, weights, BatchNorm statistics and momentum are those of one rank after 20 steps."""
    one = alone(**options_of(case))
    assert len(one["losses"]) == (8 if case == "adamw" else 20)
    for found in results:
        assert difference(one, found[case]) < 1e-5
        assert same_bits(found[case], results[0][case])


def test_the_cases_are_not_the_same_training(results):
    """The counterpart: each option changes what is learned, so the test above compares what it says."""
    found = results[0]
    for case in set(CASES) - {"whole", "diagnosed"}:
        assert found[case]["losses"] != found["whole"]["losses"]
    assert same_bits(found["diagnosed"], found["whole"])


def test_frozen_layers_stay(results):
    """Weights without a gradient and statistics in eval mode are those of the start, bit for bit."""
    start = Net().state_dict()
    for found in results:
        for name, t in found["frozen"]["model"].items():
            assert torch.equal(t, start[name]) == name.startswith("stem.")


def test_notes_say_what_runs(results):
    """The journal's lines name the engine, ranks, precision, and what BatchNorm does."""
    ranks = len(results)
    first, second = results[0]["whole"]["notes"]
    assert first == f"engine ddp: {ranks} ranks on cpu, float32"
    assert second == (
        "BatchNorm: 3 layers synchronised over the ranks (4 tiles of a rank in a forward pass; from 16 on not)"
    )


def test_many_tiles_a_rank_keep_batchnorm_local(tmp_path):
    """Each rank normalises by itself; afterwards statistics are the mean over ranks, equal everywhere."""
    found = run_ranks(f"{HERE}:train", 2, tmp_path, "auto", "sgd", "", "", "", "0", "1", "", "", "16")
    assert same_bits(*found)
    assert "each rank by itself (16 tiles" in found[0]["notes"][1]
    wanted = []
    for rank in range(2):
        model = Net().train()
        model(batch(0)[0][6 * rank :][:6])
        wanted.append({k: b for k, b in model.named_buffers() if "running" in k})
    for name in wanted[0]:
        mean = (wanted[0][name] + wanted[1][name]) / 2
        assert torch.allclose(found[0]["model"][name], mean, atol=1e-6)
        assert not torch.allclose(wanted[0][name], mean, atol=1e-6)


def test_a_resume_is_exact(tmp_path):
    """Ten steps, a checkpoint and ten more are twenty steps, in every bit, on two ranks."""
    file = str(tmp_path / "state.pt")
    cases = ["steps=20", f"steps=10,state={file}", f"first=10,steps=10,state={file}"]
    for whole, begun, gone_on in run_ranks(f"{HERE}:several", 2, tmp_path / "out", *cases):
        gone_on["losses"] = begun["losses"] + gone_on["losses"]
        assert same_bits(whole, gone_on)


def die(world):
    """Lose rank 1 between two steps."""
    train(world, steps="3")
    if world.rank == 1:
        os._exit(2)
    train(world, steps="3")


def test_a_dead_rank_ends_a_training(tmp_path):
    """The ranks that are left end with an error within seconds, not with a timeout of minutes."""
    processes = start_ranks("tests.mkd.distributed.test_engine_ranks:die", 2, tmp_path)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [1, 2]
