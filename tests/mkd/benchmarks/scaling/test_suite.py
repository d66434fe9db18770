"""Predictions of GPUs and of gloo ranks, their tables, and the whole command."""

import json
import math
from dataclasses import fields

import pytest
import torch
from torch import nn

from mkd.benchmarks.scaling.cost_model import LARGE, Fabric, Link
from mkd.benchmarks.scaling.devices import MACHINES, Machine, assumptions
from mkd.benchmarks.scaling.predict import WORKS, Network, gloo_split, gpu, network_facts, tile_bytes
from mkd.benchmarks.scaling.roofline import Rates, Work, forward_work
from mkd.benchmarks.scaling.runner import few_cores, mean_parts, network, start_ranks
from mkd.benchmarks.scaling.suite import check_scaling, measure_scaling
from mkd.benchmarks.scaling.tables import machine_table, markdown, volume_table
from mkd.benchmarks.settings import ScalingRun
from mkd.config.load import load
from mkd.metrics.cost import gmac
from mkd.model_folder import load_model


@pytest.fixture(scope="module")
def lite0():
    with torch.device("meta"):
        return network("lite0", 6)


def test_a_convolution_is_counted_with_what_it_reads_and_writes():
    with torch.device("meta"):
        model = nn.Conv2d(3, 8, 3, bias=False)
    work = forward_work(model, 2, 10)
    read, written = 2 * 3 * 10 * 10 + 8 * 3 * 9, 2 * 8 * 8 * 8
    assert work.operations == ((2.0 * 2 * 8 * 8 * 8 * 27, 2.0 * (read + written)),)


def test_work_counts_as_many_operations_as_cost_does(lite0):
    assert forward_work(lite0, 3, 64).flop == pytest.approx(3 * 2e9 * gmac(lite0, 64))


def test_each_operation_is_bound_by_what_it_needs_longest():
    """Three operations: bound by arithmetic, by memory, by the launch."""
    work = Work(1, ((100.0, 1.0), (1.0, 1000.0), (1.0, 1.0)))
    assert work.seconds(Rates(10.0, 100.0, 0.5)) == pytest.approx(10 + 10 + 0.5)


def test_facts_of_a_network():
    facts = network_facts(nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8)))
    assert facts == Network(weights=24 + 16, statistics=8 + 8 + 1, layers=1, channels=8)
    assert facts.batchnorm_bytes(4) == 4 * (2 * 8 + 1)


@pytest.mark.parametrize("name", MACHINES)
def test_predictions_stay_below_gpus_that_need_nobody(lite0, name):
    """No work on any machine is more than 1 efficient, services included, and tiles/s follow from it."""
    one = gpu(MACHINES[name], lite0, 128, sums=6, achieved=None)
    for work in WORKS:
        rows = [one.row(work, gpus) for gpus in (8, 64, 512)]
        assert all(0 < row["efficiency"] <= 1 for row in rows)
        alone = one.row("kd" if work == "kd" else "semi", 1)["tiles_per_s"]
        for row in rows:
            assert row["tiles_per_s"] == pytest.approx(row["efficiency"] * row["gpus"] * alone)
            assert row["step_s"] == pytest.approx(math.fsum(row["split"].values()))
        if work != "semi, services":
            assert rows[0]["efficiency"] >= rows[1]["efficiency"] >= rows[2]["efficiency"]


def test_services_take_whole_shares_of_each_node_and_publish_to_each(lite0):
    one = gpu(MACHINES["h100"], lite0, 128, sums=6, achieved=None)
    row = one.row("semi, services", 32)
    assert 0 < row["teachers"] < 32
    assert row["teachers"] % 4 == 0
    facts = network_facts(lite0)
    assert row["publish_bytes"] == row["teachers"] * 4 * (facts.weights + facts.statistics)
    assert row["sync_every"] >= row["publish_s"] / (8 * row["step_s"])


def test_a_measured_rate_takes_the_place_of_the_assumed_one(lite0):
    one = gpu(MACHINES["h200"], lite0, 128, sums=0, achieved=1e12)
    assert one.full_s == pytest.approx(one.flop / 1e12)
    assert one.flop == pytest.approx(32 * 2e9 * gmac(lite0, 128))


def test_few_tiles_synchronise_batchnorm_and_hide_nothing(lite0):
    few, many = (gpu(MACHINES[name], lite0, 64, 0, None).job("kd") for name in ("rtx4090", "h200"))
    assert (few.batchnorm_layers > 0, few.hidden) == (True, 0.0)
    assert (many.batchnorm_layers, many.hidden > 0) == (0, True)


def test_gloo_ranks_that_share_cores_compute_and_send_slower():
    """Without BatchNorm: 4 ranks on 2 cores take twice the computing, and twice as long for each byte and hop."""
    alone, link = {"compute": 1.0, "backward": 2.0}, {"small": 0.01, "large": 0.01 + 1.6}
    facts = Network(weights=LARGE // 4, statistics=0, layers=0, channels=0)
    two, four = (gloo_split(alone, link, facts, ranks, 2, 0, 0.0) for ranks in (2, 4))
    assert (two.compute, four.compute) == (3.0, 6.0)
    assert two.all_reduce == pytest.approx(1.6 + 2 * 0.01)  # two buckets of one hop there and back each
    assert four.all_reduce == pytest.approx(2 * (1.6 * 1.5 + 2 * 3 * 0.01))


def test_bytes_of_tiles():
    assert tile_bytes(3, 100) == 3 * (4 * 100**2 + 64)


def test_means_count_what_a_step_lacks_as_0():
    steps = [
        {"seconds": {"data": 2.0}, "sent": {}, "calls": {"sums": 3}},
        {"seconds": {"data": 4.0, "teacher": 1.0}, "sent": {}, "calls": {}},
    ]
    assert mean_parts(steps) == {"seconds": {"data": 3.0, "teacher": 0.5}, "sent": {}, "calls": {"sums": 1.5}}


def test_every_assumed_figure_stands_in_the_table_with_a_source():
    rows = assumptions()
    assert all(len(values) == len(MACHINES) and source for _, values, source in rows)
    shown = {float(value) for _, values, _ in rows for value in values}
    for machine in MACHINES.values():
        numbers = [machine.peak / 1e12, machine.memory / 1e12, machine.tiles, machine.cores]
        links = (machine.fabric.inside, machine.fabric.outside)
        for link in links:
            numbers += [1e6 * link.ring_s, 1e6 * link.tree_s, link.bytes_per_s / 1e9]
        numbers += [machine.fabric.per_node, 1e6 * machine.fabric.start_s]
        assert all(any(math.isclose(n, s, rel_tol=1e-5) for s in shown) for n in numbers)
    assert [f.name for f in fields(Machine)] == ["name", "peak", "memory", "tiles", "cores", "fabric"]
    assert [f.name for f in fields(Fabric)] == ["per_node", "inside", "outside", "start_s"]
    assert [f.name for f in fields(Link)] == ["ring_s", "tree_s", "bytes_per_s"]


def test_tables(lite0):
    one = gpu(MACHINES["rtx4090"], lite0, 64, 6, None)
    rows = [one.row(work, gpus) for work in WORKS for gpus in (8, 16)]
    found = {"tflops": 50.0, "tflops_are": "assumed", "batchnorm_synchronised": True, "rows": rows}
    text = machine_table("rtx4090", found)
    assert "RTX 4090" in text
    assert "(assumed)" in text
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")][2:4] == [
        "8",
        "16",
    ]
    assert markdown(["a", "b"], [["1", "2"]]).splitlines() == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]
    parts = {"sent": {"gradients": 12.5e6}, "calls": {"gradients": 2.0}, "published_bytes": 3e6}
    assert "| 2, service | 12.500 (2) | 0.000 (0) | 0.000 (0) | 0.000 (0) | 3.0 |" in volume_table(
        {"local": {}, "service": {"2": parts}}
    )


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("ranks=[2,4]", "ranks=.*give 1"),
        ("ranks=[1]", "ranks=.*and more"),
        ("gpus=[8,12]", "gpus=.*whole nodes of 8"),
        ("achieved.a100=100", "achieved=a100 is not allowed; choose one of rtx4090"),
        ("achieved.h200=0", "achieved.h200"),
        ("crop=8", "crop=8"),
    ],
)
def test_a_wrong_setting_is_one_sentence(override, says):
    with pytest.raises(ValueError, match=says):
        check_scaling(load(ScalingRun, "scaling", [override]))


def test_a_rank_that_fails_gives_its_last_words():
    with pytest.raises(ValueError, match="rank 0 of 1 did not end well: .*'jump'"):
        start_ranks(1, "jump")


def test_the_cores_are_given_back(monkeypatch):
    import os

    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before = os.sched_getaffinity(0)
    with few_cores() as cores:
        assert len(os.sched_getaffinity(0)) == cores <= 2
        assert os.environ["OMP_NUM_THREADS"] == "1"
    assert os.sched_getaffinity(0) == before
    assert os.environ["OMP_NUM_THREADS"] == "7"


@pytest.mark.slow
def test_the_whole_command(tmp_path, capsys):
    """Measured on 1 and 2 ranks: gradients send 4 bytes a weight each way; every table is printed and written."""
    given = (
        f"out={tmp_path} json={tmp_path}/s.json crop=32 batch=1 steps=2 ranks=[1,2] predict=lite0 gpus=[8]"
    )
    measure_scaling(load(ScalingRun, "scaling", given.split()))
    found = json.loads((tmp_path / "s.json").read_text())
    weights = sum(p.numel() for p in load_model(tmp_path / "start-lite0")[0].parameters())
    for kind in ("local", "service"):
        parts = found[kind]["2"]
        assert parts["sent"]["gradients"] == pytest.approx(4 * weights)
        assert {"teacher", "publish", "data", "all_reduce", "batchnorm", "exchange"} <= set(parts["seconds"])
        assert found[kind]["1"]["sent"] == {}
    assert 0 < found["overlap"]["share"] <= 1
    assert [row["ranks"] for row in found["validation"]] == [2]
    assert all(row["tiles_per_s"] > 0 for each in found["predicted"].values() for row in each["rows"])
    printed = capsys.readouterr().out
    for heading in ("Measured: lite0", "Overlap by torch.profiler", "Predicted: lite0", "What is assumed"):
        assert heading in printed
