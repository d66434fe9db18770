"""The demo's data and its verdict; `make demo` runs the whole of it."""

import json

import pytest

from mkd.config.schema import DemoRun
from mkd.dataset.index import read_index
from mkd.recipes.tables.demo import _data
from shards.inputs.class_file import read_classfile
from tests.helpers.training.runs import ROOT, digests

SMALL = {"scene": 256, "tile": 64, "block": 128, "intermediate_scenes": 1, "target_scenes": 2, "labelled": 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    config = DemoRun(out=str(out), **SMALL)
    _data(config, out)
    return config, out


def test_sets_of_the_demo(made):
    """Both domains are there with their class files' classes, few target tiles are labelled, none is lost."""
    _, out = made
    target = {
        n: read_index(out / "data" / "target" / n) for n in ("labelled", "unlabelled", "val", "test", "all")
    }
    assert target["labelled"].samples == target["labelled"].labelled == SMALL["labelled"]
    assert target["all"].samples == 2 * (256 // 64) ** 2
    assert target["unlabelled"].samples > target["labelled"].samples
    assert min(target["val"].samples, target["test"].samples) > 0
    assert len(target["labelled"].classes) == 6
    assert len(read_index(out / "data" / "intermediate" / "train").classes) == 17
    for domain in ("target", "intermediate"):
        classes = read_classfile(ROOT / "configs" / "datasets" / f"demo_{domain}.yaml")
        assert read_index(out / "data" / domain / "all").classes == tuple(classes.classes)


def test_no_test_tile_touches_a_training_tile(made):
    """The split is by spatial block, and its own count of touching tiles is 0."""
    for domain in ("target", "intermediate"):
        assert json.loads((made[1] / "data" / domain / "split.json").read_text()) == {"touching": 0}


def test_a_second_start_draws_nothing_again(made):
    """Going on leaves every file as it is."""
    config, out = made
    before = digests(out)
    _data(config, out)
    assert digests(out) == before


def test_the_same_seed_draws_the_same_world(made, tmp_path):
    """Another folder gets the same shards, byte for byte."""
    config, out = made
    _data(config, tmp_path)
    before, after = digests(out / "data"), digests(tmp_path / "data")
    assert {n: d for n, d in after.items() if n.endswith(".tar")} == {
        n: d for n, d in before.items() if n.endswith(".tar")
    }
