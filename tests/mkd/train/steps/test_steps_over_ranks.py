"""Supervised and KD steps on real gloo ranks against one rank that holds the whole batch."""

import pytest
import torch

from tests.helpers.processes.ranks import run_ranks
from tests.helpers.training.runs import CPU
from tests.helpers.training.steps import KINDS, train_all


@pytest.fixture(scope="module")
def alone():
    """Train on one rank."""
    return train_all(CPU)


@pytest.fixture(scope="module", params=[2, 3])
def of_ranks(request, tmp_path_factory):
    """Train the same on 2 and on 3 ranks; each rank's result."""
    return run_ranks(
        "tests.helpers.training.steps:train_all", request.param, tmp_path_factory.mktemp("ranks")
    )


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_equal_one_rank(alone, of_ranks, kind):
    """20 steps with dropout, BatchNorm, frozen parts, EWC, a rank and a step without labels: the same to 1e-5.

    Losses (the shares summed), the gradient norms, every step's gradient, and the last weights and statistics.
    """
    whole = alone[kind]
    for found in (rank[kind] for rank in of_ranks):
        assert [step.keys() for step in found["losses"]] == [step.keys() for step in whole["losses"]]
        for step, expected in zip(found["losses"], whole["losses"], strict=True):
            assert step == pytest.approx(expected, rel=1e-5, abs=1e-6)
        close(found["gradients"], whole["gradients"])
        close(found["weights"], whole["weights"])


def test_the_ranks_agree_to_the_bit(of_ranks):
    """All ranks end with the same weights, BatchNorm statistics included."""
    first, *others = of_ranks
    for kind in KINDS:
        for rank in others:
            pairs = zip(first[kind]["weights"].values(), rank[kind]["weights"].values(), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)


def test_the_training_is_worth_comparing(alone):
    """Every term and the gradient norms take part, and the weights move by far more than the tolerance."""
    losses = alone["kd"]["losses"]
    assert set(losses[0]) == {"loss", "loss_sup", "loss_kd", "loss_ewc"}
    assert "ewc_ratio" in losses[3]
    assert losses[2]["loss_sup"] == 0 < losses[2]["loss_kd"]  # the step without labels
    assert all(step["loss_sup"] > 0.1 for n, step in enumerate(losses) if n != 2)
    for kind in KINDS:
        gradients = alone[kind]["gradients"]
        assert (gradients.abs().amax(dim=1) > 1e-3).sum() >= 19
