"""KD and semi-supervised steps, EMA included, under DeepSpeed's ZeRO on two real ranks: as DDP, and as one rank."""

import pytest
import torch

from tests.helpers.processes.ranks import run_ranks
from tests.helpers.shards import pictures, write_dataset
from tests.helpers.training import pseudo_ranks, steps
from tests.helpers.training.runs import CPU, coloured

ENGINES = ("ddp", "zero1", pytest.param("zero2", marks=pytest.mark.slow))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiles of which some are rejected."""
    root = tmp_path_factory.mktemp("sets")
    write_dataset(root / "labelled", coloured(6, (20, 20)))
    other = coloured(9, (20, 20), seed=1) + pictures(8, (20, 20), seed=2)
    write_dataset(root / "other", other, labelled=False)
    return root


def both(world, folder, kind):
    """Train by KD and semi-supervised steps; return what is compared."""
    kd = steps.train(world, "kd", kind)
    semi = pseudo_ranks.train(world, folder, kind)
    losses = torch.stack([row["losses"] for row in semi["rows"]])
    return {"kd": kd, "semi": {"losses": losses, "weights": semi["model"], "ema": semi["state"]["ema"]}}


@pytest.fixture(scope="module")
def alone(folder):
    """Train on one rank."""
    return both(CPU, str(folder), "auto")


@pytest.mark.parametrize("kind", ENGINES)
def test_an_engine_trains_as_one_rank(folder, alone, tmp_path, kind):
    """20 steps of each kind: losses, weights, statistics and average are one rank's to 1e-5, under every engine."""
    close = {"rtol": 1e-5, "atol": 1e-5}
    for found in run_ranks(f"{__name__}:both", 2, tmp_path, str(folder), kind):
        for step, expected in zip(found["kd"]["losses"], alone["kd"]["losses"], strict=True):
            assert step == pytest.approx(expected, rel=1e-5, abs=1e-5)
        torch.testing.assert_close(found["kd"]["weights"], alone["kd"]["weights"], **close)
        torch.testing.assert_close(found["semi"]["losses"], alone["semi"]["losses"], **close)
        torch.testing.assert_close(found["semi"]["weights"], alone["semi"]["weights"], **close)
        mine, theirs = found["semi"]["ema"], alone["semi"]["ema"]
        assert mine.keys() == theirs.keys()
        assert all(torch.as_tensor(mine[k] - theirs[k]).abs().max() <= 1e-5 for k in theirs)
