"""A run knows the data sets and versions that it was begun with, and all ranks see the same ones."""

import json
from dataclasses import replace

import pytest

from mkd.dataset.index import read_index
from mkd.distributed.world import World
from mkd.train.run.run_inputs import NAME, RunInputs, check_same_index
from tests.helpers.processes.threads import on_threads
from tests.helpers.shards import pictures, write_dataset

CPU = World.single()
VERSIONS = {"torch": "2.9.0", "threads": 2, "commit": "a"}


@pytest.fixture(scope="module")
def indexes(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    return [read_index(write_dataset(root / str(seed), pictures(2, (8, 8), seed=seed))) for seed in range(2)]


@pytest.fixture
def run(tmp_path):
    """A function (accept) -> the inputs of one run folder, and what they said."""
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "versions.json").write_text(json.dumps(VERSIONS))

    def opened(*accept, world=CPU):
        said = []
        return RunInputs(tmp_path, world, accept, said.append), said

    return opened


def test_the_same_data_are_no_news(run, indexes, tmp_path):
    """The first start notes each data set's SHA-256; the same ones later change nothing and say nothing."""
    first, said = run()
    first.check_data("data.labelled", "a", indexes[0])
    first.check_data("data.val", "b", indexes[1])
    before = (tmp_path / NAME).read_bytes()
    assert json.loads(before)["data"] == {
        "data.labelled": indexes[0].sha256(),
        "data.val": indexes[1].sha256(),
    }
    again, heard = run()
    again.check_data("data.labelled", "moved/a", indexes[0])
    assert (said, heard) == ([], [])
    assert (tmp_path / NAME).read_bytes() == before
    assert again.run == first.run


def test_replaced_data_are_refused_or_accepted(run, indexes, tmp_path):
    """Another index under the same key ends the run in one sentence; with accept=[data] it goes on and says so."""
    run()[0].check_data("data.val", "b", indexes[0])
    before = (tmp_path / NAME).read_bytes()
    with pytest.raises(
        ValueError, match=r"^data\.val=b is not the data set that this run was begun with.*accept=\[data\]"
    ):
        run("threads", "checkpoint")[0].check_data("data.val", "b", indexes[1])
    assert (tmp_path / NAME).read_bytes() == before
    inputs, said = run("data")
    inputs.check_data("data.val", "b", indexes[1])
    (line,) = said
    assert line.startswith("accept=[data]: data.val=b")
    assert "to the bit" in line
    noted = json.loads((tmp_path / NAME).read_text())
    assert noted["accepted"] == [
        {"data": "data.val", "before": indexes[0].sha256(), "now": indexes[1].sha256()}
    ]
    run()[0].check_data("data.val", "b", indexes[1])  # accepted once: the run's own from now on
    with pytest.raises(ValueError, match="is not the data set"):
        run()[0].check_data("data.val", "b", indexes[0])


def test_a_replaced_model_is_refused_or_accepted(run, tmp_path):
    """The model that a run starts from counts by its weights, wherever it lies; an older inputs.json knows none."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
    (tmp_path / NAME).write_text('{"run": "a", "data": {}, "accepted": []}')
    run()[0].check_model("kd.source", tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "moved")
    inputs, said = run()
    inputs.check_model("kd.source", tmp_path / "moved")
    assert said == []
    with pytest.raises(
        ValueError, match=r"^kd\.source=.*two is not the model that this run was begun with.*accept=\[model\]"
    ):
        run("data")[0].check_model("kd.source", tmp_path / "two")
    inputs, said = run("model")
    inputs.check_model("kd.source", tmp_path / "two")
    (line,) = said
    assert line.startswith("accept=[model]: kd.source=")
    run()[0].check_model("kd.source", tmp_path / "two")


@pytest.mark.parametrize("change", [{"name": "x"}, {"histogram": (1, 2, 3)}, {"provenance": {"a": 1}}])
def test_any_change_of_an_index_counts(run, indexes, change):
    """Whatever differs in index.json, it is another data set."""
    run()[0].check_data("data.val", "b", indexes[0])
    with pytest.raises(ValueError, match="is not the data set"):
        run()[0].check_data("data.val", "b", replace(indexes[0], **change))


def test_threads_and_versions_are_a_warning(run):
    """Each kind is one line; what is accepted by name is no warning, and the same ones are not mentioned."""
    inputs, said = run()
    inputs.check_versions(VERSIONS)
    assert said == []
    inputs.check_versions(VERSIONS | {"threads": 8, "torch": "2.10.0", "commit": "b"})
    assert [line.partition(":")[0] for line in said] == ["WARNING", "WARNING"]
    assert "threads 2 then, 8 now: the numbers are no longer, to the bit," in said[0]
    assert "torch 2.9.0 then, 2.10.0 now, commit a then, b now" in said[1]
    inputs, said = run("threads")
    inputs.check_versions(VERSIONS | {"threads": 8, "torch": "2.10.0"})
    assert [line.partition(":")[0] for line in said] == ["accept=[threads]", "WARNING"]


def test_threads_of_a_gpu_run_do_not_count(run):
    """On a GPU the CPU's threads change no number."""
    inputs, said = run(world=World.single("cuda"))
    inputs.check_versions(VERSIONS | {"threads": 8})
    assert said == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"run": 3, "data": {}, "accepted": []}', "[" * 9999])
def test_a_damaged_file_is_a_sentence(run, tmp_path, text):
    """Junk in the place of inputs.json is named."""
    (tmp_path / NAME).write_text(text)
    with pytest.raises(ValueError, match=r"inputs\.json is damaged"):
        run()
    (tmp_path / NAME).unlink()
    (tmp_path / "versions.json").write_text(text + "!")
    inputs, said = run()
    inputs.check_versions(VERSIONS)
    assert "cannot be read" in said[0]


def test_ranks_compare_what_they_opened(indexes):
    """A rank with another data set than rank 0 says so, naming both; the same ones pass."""

    def rank_of(world):
        assert check_same_index(world, "data.val", "b", indexes[0]) == indexes[0].sha256()
        if world.is_main:
            return check_same_index(world, "data.val", "b", indexes[0])
        with pytest.raises(
            ValueError, match=r"^data\.val=b is another data set for rank 1 .* than for rank 0"
        ):
            check_same_index(world, "data.val", "b", indexes[1])
        return None

    assert on_threads(2, rank_of) == [indexes[0].sha256(), None]
