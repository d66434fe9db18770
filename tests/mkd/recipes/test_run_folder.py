"""One folder, one config: entered again by the same run, refused to another."""

import json
import subprocess
from dataclasses import replace

import pytest

from mkd.config.load import from_yaml
from mkd.config.schema import DataConfig, OptimConfig, SemiConfig, SemiRun, SupervisedRun, TeacherConfig
from mkd.recipes.run_folder import commit, extend_run, open_run, versions
from tests.helpers.training.runs import ROOT, digests


@pytest.fixture
def config(tmp_path):
    return SupervisedRun(out=str(tmp_path / "run"), data=DataConfig(labelled="tiles"), steps=5)


def test_a_new_folder_holds_config_and_versions(config):
    """The resolved config can be read back to the same run; versions name what numbers depend on."""
    folder = open_run(config)
    assert {p.name for p in folder.iterdir()} == {"config.yaml", "versions.json"}
    assert from_yaml(SupervisedRun, (folder / "config.yaml").read_text()).steps == 5
    found = json.loads((folder / "versions.json").read_text())
    assert {
        "commit",
        "python",
        "torch",
        "torchvision",
        "timm",
        "numpy",
        "simplejpeg",
        "pillow",
        "mkd",
        "device",
        "threads",
    } <= set(found)


def test_the_same_config_enters_and_changes_nothing(config):
    """A second start with the same config is the resume."""
    before = digests(open_run(config))
    assert digests(open_run(config)) == before


def test_another_config_is_refused_with_the_difference(config):
    """Each key that differs is shown with both values, and only these; nothing is changed."""
    before = digests(open_run(config))
    with pytest.raises(ValueError, match="another config") as caught:
        open_run(replace(config, seed=7, optim=OptimConfig(lr=0.5)))
    text = str(caught.value)
    assert config.out in text
    for part in ("there seed: 0", "now seed: 7", "there lr: 0.001", "now lr: 0.5"):
        assert part in text
    assert "momentum" not in text
    assert "\n" not in text
    assert digests(config.out) == before


def test_what_changes_no_number_is_free(config):
    """Workers, cache, loss budget, device, engine, what is kept and how often the journal speaks may differ."""
    open_run(config)
    data = replace(config.data, workers=0, cache="/tmp/tiles", cache_gib=3.0, max_bad=0.5)
    kept = {"keep_every": 400, "keep": 9, "save_every": 100}
    open_run(replace(config, data=data, device="cpu", log_every=1, engine="zero1", compile=True, **kept))


def test_micro_batches_change_numbers(config):
    """OHEM and BatchNorm see one forward pass: another data.micro is another run."""
    open_run(config)
    with pytest.raises(ValueError, match="there micro: null; now micro: 1"):
        open_run(replace(config, data=replace(config.data, micro=1)))


@pytest.mark.parametrize("spelling", ["{}/", "{}/../run", "./{}"])
def test_the_folder_may_be_spelled_otherwise(config, monkeypatch, tmp_path, spelling):
    """runs/x and runs/x/ are one folder; a relative and an absolute path too."""
    open_run(config)
    monkeypatch.chdir(tmp_path)
    out = spelling.format("run" if spelling.startswith("./") else config.out)
    open_run(replace(config, out=out))


def test_a_folder_of_something_else_is_refused(config, tmp_path):
    """A folder that holds other files is not made a run folder."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="not empty and no run folder"):
        open_run(config)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_an_empty_folder_is_taken(config, tmp_path):
    """An empty folder that is already there is as good as none."""
    (tmp_path / "run").mkdir()
    assert (open_run(config) / "config.yaml").is_file()


def test_a_kill_while_the_folder_is_made(config, tmp_path):
    """What a kill leaves of the first write, an aside file, does not block the next start."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".tmp-1234-config.yaml").write_text("out:")
    assert (open_run(config) / "config.yaml").is_file()


def test_a_kill_between_config_and_versions(config):
    """The next start writes the versions that are missing."""
    folder = open_run(config)
    (folder / "versions.json").unlink()
    open_run(config)
    assert (folder / "versions.json").is_file()


def test_commit_is_gits(monkeypatch, tmp_path):
    """The commit is what git says of the project, wherever the run is started; None without git."""
    monkeypatch.chdir(tmp_path)
    found = commit()
    said = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True)
    if said.returncode == 0:
        assert said.stdout.startswith(found.removesuffix("-dirty"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() is None
    assert versions()["commit"] is None


def test_services_may_move_between_starts(tmp_path):
    """Endpoints, token, patience and the ledger may differ at a resume; what shapes the numbers may not."""
    one = SemiRun(out=str(tmp_path / "run"), data=DataConfig(labelled="tiles"), semi=SemiConfig(start="m"))
    one.teacher = TeacherConfig(kind="service", endpoints=["a:1", "b:2"])
    open_run(one)
    for endpoints in ([], ["c:3"], ["a:1", "b:2", "c:3"]):
        moved = replace(one.teacher, endpoints=endpoints, token_file="t", patience=9.0, ledger=True)
        open_run(replace(one, teacher=moved))
    with pytest.raises(ValueError, match="there max_age: 8; now max_age: 0"):
        open_run(replace(one, teacher=replace(one.teacher, max_age=0, endpoints=["c:3"])))


def test_another_length_is_offered_and_made(config):
    """Other steps are refused with the word for it; with extend=true they are taken, and the old model is kept."""
    folder = open_run(config)
    (folder / "model").mkdir()
    (folder / "model" / "model.yaml").write_text("old")
    (folder / "metrics.jsonl").write_text(
        '{"phase": "teacher", "step": 90}\n{"phase": "student", "step": 5}\n{"pha'
    )
    with pytest.raises(ValueError, match=r"another length \(there steps: 5; now steps: 9\); add extend=true"):
        open_run(replace(config, steps=9))
    assert extend_run(replace(config, extend=True)) == ""
    with pytest.raises(ValueError, match="steps=4: the run .* has done 5 steps"):
        extend_run(replace(config, steps=4, extend=True))
    assert extend_run(replace(config, steps=9, seed=3, extend=True)) == ""
    with pytest.raises(ValueError, match="another config"):
        open_run(replace(config, steps=9, seed=3, extend=True))
    said = extend_run(replace(config, steps=9, extend=True))
    assert "follow the new length" in said
    assert str(folder / "model-1") in said
    assert (folder / "model-1" / "model.yaml").read_text() == "old"
    assert not (folder / "model").exists()
    open_run(replace(config, steps=9))
