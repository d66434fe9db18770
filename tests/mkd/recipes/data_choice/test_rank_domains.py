"""Which intermediate domain to train on: the ranking from tiny data sets, its files, and its one sentence."""

import csv
import json

import numpy as np
import pytest
import torch

from mkd.config.load import load
from mkd.config.schema import DomainsRun
from mkd.loader.loader import TileSet
from mkd.metrics.confusion import ConfusionMatrix
from mkd.recipes.data_choice.domain_distances import Estimate
from mkd.recipes.data_choice.domain_probe import Probe, gain_interval, probe_target
from mkd.recipes.data_choice.rank_domains import Candidate, conclusion, rank_domains
from mkd.recipes.data_choice.tile_features import imagenet_network
from tests.helpers.shards import write_dataset
from tests.helpers.training.runs import coloured, digests, retitle

SIZE = (96, 96)


@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    """A target, a candidate like it, and one of noise with other classes."""
    root = tmp_path_factory.mktemp("domains")
    near = write_dataset(root / "near", coloured(5, SIZE, seed=1))
    rng = np.random.default_rng(0)
    noise = [(rng.integers(0, 256, (*SIZE, 3), np.uint8), ids) for _, ids in coloured(6, SIZE, seed=2)]
    far = retitle(write_dataset(root / "far", noise), ["grass", "path", "water body", "roof"])
    for name in ("near", "far"):
        index = json.loads((root / name / "index.json").read_text())
        (root / name / "index.json").write_text(json.dumps({**index, "name": name}))
    return {"near": near, "far": far, "target": write_dataset(root / "target", coloured(6, SIZE, seed=3))}


def ask(domains, out, *more):
    argv = [f"candidates=[{domains['near']},{domains['far']}]", f"target={domains['target']}", f"out={out}"]
    return load(DomainsRun, "domains", [*argv, "probe_steps=2", "batch=2", "device=cpu", *more])


@pytest.fixture(scope="module")
def ranked(domains, tmp_path_factory):
    """The folder of one ranking, and what it said."""
    out = tmp_path_factory.mktemp("out")
    return out, rank_domains(ask(domains, out))


@pytest.mark.slow  # trains
def test_the_files_of_a_ranking(domains, ranked):
    """JSON, CSV and page, where a sentence begins with a capital, agree; the counts are those of the data sets."""
    out, said = ranked
    found = json.loads((out / "domains.json").read_text())
    by_name = {c["name"]: c for c in found["candidates"]}
    assert set(by_name) == {"near", "far"}
    assert [c["miou"] for c in found["candidates"]] == sorted(
        (c["miou"] for c in by_name.values()), reverse=True
    )
    assert (by_name["near"]["tiles"], by_name["near"]["shared"], by_name["near"]["naive"]) == (
        5,
        ["field", "road", "water"],
        15,
    )
    assert (by_name["far"]["tiles"], by_name["far"]["shared"], by_name["far"]["naive"]) == (6, ["water"], 6)
    assert by_name["far"]["overlap"] == pytest.approx(1 / 3)
    assert by_name["near"]["frechet"]["value"] < by_name["far"]["frechet"]["value"]
    assert by_name["near"]["mmd2"]["high"] < by_name["far"]["mmd2"]["low"]
    for c in by_name.values():
        assert c["gain"]["value"] == pytest.approx(c["miou"] - found["control"]["miou"])
        assert c["gain"]["low"] <= c["gain"]["high"]
    assert found["ranks"]["frechet"] == found["ranks"]["mmd2"] == found["ranks"]["naive"] == ["near", "far"]
    assert sorted(found["ranks"]["random"]) == ["far", "near"]
    assert found["tiles_compared"] == 5
    with open(out / "domains.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [c["name"] for c in found["candidates"]]
    assert float(rows[0]["gain_low"]) == found["candidates"][0]["gain"]["low"]
    page = (out / "domains.html").read_text()
    assert found["sentence"] in said
    for part in (found["sentence"][1:], "<svg", "near", "far", "launch/domains.py"):
        assert part in page


@pytest.mark.slow  # trains
def test_the_same_again(domains, ranked):
    """A second start reuses the probes and writes the same numbers; other steps are refused by the run's folder."""
    out, said = ranked
    before, weights = (out / "domains.json").read_text(), digests(out / "probes" / "near" / "model")
    assert rank_domains(ask(domains, out)) == said
    assert (out / "domains.json").read_text() == before
    assert digests(out / "probes" / "near" / "model") == weights


def test_the_probe_counts_each_scored_pixel_once(domains):
    """Rows of the matrices are the label counts of the scored tiles, and the pattern is learned from the others."""
    tiles = TileSet(domains["target"], labelled=True)
    network = imagenet_network(tiles.index, "target")
    probe = probe_target(network, tiles, [0, 2, 4], [1, 3, 5], 0, torch.device("cpu"))
    for number, sample in enumerate((1, 3, 5)):
        labels = tiles[(0, sample)][1]
        assert (
            probe.matrices[number].sum(axis=1).tolist()
            == torch.bincount(labels[labels != 255].long(), minlength=3).tolist()
        )
    whole = ConfusionMatrix(3)
    whole.matrix = torch.from_numpy(probe.matrices.sum(axis=0))
    assert probe.miou == pytest.approx(whole.miou())
    assert probe.miou > 0.4  # a third of the pixels by chance is an IoU of 0.2
    assert np.isfinite(probe.logme)


def test_gains_are_compared_on_the_same_tiles():
    """Two probes that differ by a constant on tiles of very different difficulty: the interval holds no spread."""
    hits = np.array([90, 50, 10, 70])

    def probe(correct):
        return Probe(np.array([[[h, 100 - h], [100 - h, h]] for h in correct]), 0.0)

    counts = np.random.default_rng(0).multinomial(4, [0.25] * 4, 500)
    low, high = gain_interval(probe(hits + 5), probe(hits), counts)
    assert 0 < low < high < 0.12
    assert gain_interval(probe(hits), probe(hits), counts) == (0.0, 0.0)
    samples = probe(hits).resampled(counts[:3])
    for count, value in zip(counts[:3], samples, strict=True):
        h = int((count * hits).sum())
        assert value == pytest.approx(h / (2 * 400 - h))


def candidate(name, low, high):
    gain, none = Estimate((low + high) / 2, low, high), Estimate(0, 0, 0)
    return Candidate(name, name, 1, 0.5, gain, 0.0, none, none, [], 0.0, 0, 0)


def test_the_sentence():
    """Above 0 lies between, below 0 is harmful, around 0 is unclear."""
    hw, gtav, isaid, xs = (
        candidate("hw", 0.01, 0.02),
        candidate("gtav", -0.2, -0.1),
        candidate("isaid", -0.1, 0.1),
        candidate("xs", 0.1, 0.2),
    )
    for group, text in (
        ([hw, gtav], "hw lies between ImageNet and eh; gtav does not: expect negative transfer"),
        ([hw, xs, isaid], "hw and xs lie between ImageNet and eh; of isaid this probe cannot tell"),
        ([gtav], "gtav does not lie between ImageNet and eh: expect negative transfer"),
        ([isaid], "of isaid this probe cannot tell"),
    ):
        assert conclusion("ImageNet", "eh", group) == text


@pytest.mark.slow  # trains
def test_from_a_model(domains, runs, tmp_path):
    """source= is what the probes start from, with its architecture."""
    config = ask(domains, tmp_path, f"source={runs['kd'].out}/model")
    rank_domains(config)
    found = json.loads((tmp_path / "domains.json").read_text())
    assert found["source"] == f"{runs['kd'].out}/model"
    assert (
        f"student_init: {runs['kd'].out}/model" in (tmp_path / "probes" / "near" / "config.yaml").read_text()
    )


def test_what_cannot_be_ranked_is_one_sentence(domains, sets, tmp_path):
    """No candidates, one twice, an unlabelled one, one of a single class, a target of one tile: before any training."""
    near, target = domains["near"], domains["target"]
    flat = write_dataset(tmp_path / "flat", [(image, 0 * ids) for image, ids in coloured(2, SIZE)])
    single = write_dataset(tmp_path / "single", coloured(1, SIZE))
    for candidates, aim, text in (
        ("", target, r"candidates=\[\]; give"),
        (f"{near},{near}", target, "one of them comes twice"),
        (sets["unlabelled"], target, "have no label"),
        (f"{near},{flat}", target, f"candidates={flat} has labels of field only"),
        (near, single, "has 1 tile: give two or more"),
    ):
        argv = [f"candidates=[{candidates}]", f"target={aim}", f"out={tmp_path}/o", "device=cpu"]
        with pytest.raises(ValueError, match=text) as caught:
            rank_domains(load(DomainsRun, "domains", argv))
        assert "\n" not in str(caught.value)
