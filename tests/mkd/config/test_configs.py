"""Every YAML in configs/ means something to the schema."""

import pytest
import yaml

from mkd.benchmarks.settings import CostRun
from mkd.config.keys import choices
from mkd.config.load import CONFIGS, load
from mkd.config.schema import Experiment, KdRun, SemiRun, SupervisedRun
from mkd.recipes.tables.run_list import needed_runs, overrides_of

KINDS = {"supervised": SupervisedRun, "kd": KdRun, "semi": SemiRun}
MODELS = sorted(p.stem for p in (CONFIGS / "model").glob("*.yaml"))
TABLES = sorted(next(files for group, _, files in choices("experiment")).split(", "))


@pytest.mark.parametrize("name", MODELS)
def test_model_files_fit_the_schema(name):
    """Each key of a model file is one of the schema's and arrives in the config."""
    content = yaml.safe_load((CONFIGS / "model" / f"{name}.yaml").read_text())
    model = load(CostRun, "cost", [f"model={name}"]).model
    for key, value in content.items():
        found = getattr(model, key)
        assert (list(found) if isinstance(found, tuple) else found) == value


def table(name, tmp_path, seeds=(3,)):
    seeds = ",".join(str(s) for s in seeds)
    argv = [f"experiment={name}", f"out={tmp_path / 'out'}", f"data={tmp_path / 'data'}", f"seeds=[{seeds}]"]
    return load(Experiment, "experiment", argv)


def make_paths(overrides, below):
    """Create what path overrides name: folders that look like a data set and a model."""
    for override in overrides:
        path = override.partition("=")[2]
        if path.startswith(str(below)):
            if path.endswith(".safetensors"):
                (below / path).parent.mkdir(parents=True, exist_ok=True)
                (below / path).touch()
                continue
            for file in ("index.json", "model.yaml", "model.safetensors"):
                (below / path).mkdir(parents=True, exist_ok=True)
                (below / path / file).touch()


@pytest.mark.parametrize("name", TABLES)
def test_every_run_of_a_table_loads(name, tmp_path):
    """The overrides of each run that it needs are known keys with values of the right type that pass the checks."""
    config = table(name, tmp_path)
    assert needed_runs(config) or config.samples
    for run in needed_runs(config):
        script, filled = config.runs[run].script, overrides_of(config, run, 3)
        make_paths([text for text in filled if not text.startswith("out=")], tmp_path)
        assert load(KINDS[script], script, filled).out == str(tmp_path / "out" / run / "seed3")


@pytest.mark.parametrize("scale", sorted({name.partition("/")[0] for name in TABLES if "/" in name}))
def test_every_run_of_a_scale_is_needed(scale, tmp_path):
    """A run that tables share is one that a table needs."""
    configs = [table(name, tmp_path) for name in TABLES if name.startswith(f"{scale}/table")]
    shared = {run for config in configs for run in config.runs}
    assert shared == {run for config in configs for run in needed_runs(config)}


@pytest.mark.parametrize("scale", sorted({name.partition("/")[0] for name in TABLES if "/" in name}))
def test_a_run_of_one_folder_is_one_run(scale, tmp_path):
    """Runs of one name in tables of one scale have the same overrides, as they share a folder."""
    seen = {}
    for name in (name for name in TABLES if name.startswith(f"{scale}/")):
        config = table(name, tmp_path)
        for run in needed_runs(config):
            assert seen.setdefault(run, overrides_of(config, run, 3)) == overrides_of(config, run, 3), run


@pytest.mark.parametrize("name", TABLES)
def test_rows_and_references_name_runs(name, tmp_path):
    """Each row names a run, {run:NAME} refers to an earlier one, and {seed} keeps seeds apart."""
    config = table(name, tmp_path)
    assert set(config.rows.values()) <= set(config.runs)
    assert set(config.common) <= set(KINDS)
    before = []
    for run, step in config.runs.items():
        used = [o.split("{run:")[1].split("}")[0] for o in step.overrides if "{run:" in o]
        assert set(used) <= set(before), f"{run} needs {used}, but only {before} ran before it"
        before.append(run)


@pytest.mark.parametrize("name", TABLES)
def test_table_files_say_what_they_cost(name):
    """Each table opens with hardware and command."""
    text = (CONFIGS / "experiment" / f"{name}.yaml").read_text()
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert any("Hardware:" in line for line in header)
    assert any("Command: " in line for line in header)


def test_there_is_something_to_test():
    """The collections above are not empty."""
    assert {"lite0", "hrnet_w48_psa", "resnet101_ibn_a"} <= set(MODELS)
    assert {"demo", "real/table2", *(f"{scale}/table3" for scale in ("demo", "real", "paper"))} <= set(TABLES)
