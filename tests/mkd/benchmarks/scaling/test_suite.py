"""The benchmark of scaling: its settings, and the whole command."""

import json

import pytest

from mkd.benchmarks.reporting import markdown
from mkd.benchmarks.scaling.suite import start_ranks
from mkd.benchmarks.settings import ScalingRun
from mkd.config.load import load
from mkd.metrics.cost import parameters
from mkd.model_folder import load_model
from tests.helpers.training.runs import launch


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("ranks=[2,4]", "ranks=.*give 1"),
        ("ranks=[0,1]", "ranks=.*give 1"),
        ("gpus=[]", "gpus=.*numbers of GPUs"),
        ("achieved.a100=100", "achieved=a100 is not allowed; choose one of rtx4090"),
        ("achieved.h200=0", "achieved.h200"),
        ("crop=8", "crop=8"),
    ],
)
def test_a_wrong_setting_is_one_sentence(override, says):
    with pytest.raises(ValueError, match=says):
        load(ScalingRun, "scaling", [override])


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_benchmark(tmp_path, capfd):
    with pytest.raises(ValueError, match="1 ranks did not end well"):
        start_ranks(1, str(tmp_path), "jump=1")
    assert "jump" in capfd.readouterr().err


@pytest.mark.slow
def test_the_whole_command(tmp_path, capsys):
    """Real ranks: gradients send 4 bytes a weight, BatchNorm what is counted; every table is printed and written."""
    given = (
        f"out={tmp_path} json={tmp_path}/s.json crop=32 batch=1 steps=1 ranks=[2,1] predict=lite0 gpus=[8]"
    )
    assert launch("throughput", "scaling", *given.split()) == 0
    found = json.loads((tmp_path / "s.json").read_text())
    one, two = found["measured"]
    weights = parameters(load_model(tmp_path / "start")[0])
    assert (one["ranks"], two["ranks"]) == (1, 2)
    assert two["gradients, MB"] == pytest.approx(4e-6 * weights)
    norms = found["volumes"][0]  # a CPU gathers float64, and backward sums are float32
    gathered, summed = 2 * norms["batchnorm forward"], norms["batchnorm backward"]
    assert two["batchnorm, MB"] == pytest.approx(1e-6 * (gathered + summed))
    assert two["pseudo_labels, MB"] >= 4e-6 * 32**2  # one tile for CutMix
    assert two["losses, MB"] > 0
    assert {one[f"{kind}, MB"] for kind in ("gradients", "batchnorm", "pseudo_labels", "losses")} == {0}
    for row in (one, two):
        assert row["images/s"] == pytest.approx(2e3 * row["ranks"] / row["step, ms"])
        assert row["efficiency"] == pytest.approx(row["images/s"] / row["ranks"] / one["images/s"])
    printed = capsys.readouterr().out
    assert all(markdown(found[table]) in printed for table in ("measured", "volumes", "bounds", "assumed"))
