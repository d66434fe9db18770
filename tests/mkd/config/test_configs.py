"""Every YAML in configs/ means something to the schema."""

import pytest
import yaml

from mkd.benchmarks.settings import CostRun
from mkd.config.load import CONFIGS, load
from mkd.config.schema import Experiment, KdRun, SemiRun, SupervisedRun
from mkd.recipes.tables.run_list import fill

KINDS = {"supervised": SupervisedRun, "kd": KdRun, "semi": SemiRun}
MODELS = sorted(p.stem for p in (CONFIGS / "model").glob("*.yaml"))
TABLES = sorted(
    str(p.relative_to(CONFIGS / "experiment").with_suffix(""))
    for p in (CONFIGS / "experiment").rglob("*.yaml")
)


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
            for file in ("index.json", "model.yaml", "model.safetensors"):
                (below / path).mkdir(parents=True, exist_ok=True)
                (below / path / file).touch()


@pytest.mark.parametrize("name", TABLES)
def test_every_run_of_a_table_loads(name, tmp_path):
    """Each run's overrides are known keys with values of the right type that pass the checks."""
    config = table(name, tmp_path)
    assert config.runs
    for run, step in config.runs.items():
        texts = [*config.common.get(step.script, []), *step.overrides]
        filled = [f"out={tmp_path / run}", *(fill(config, t, 3) for t in texts)]
        make_paths(filled, tmp_path)
        assert load(KINDS[step.script], step.script, filled).out == str(tmp_path / run)


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
    assert {"demo", "real/table2"} <= set(TABLES)
