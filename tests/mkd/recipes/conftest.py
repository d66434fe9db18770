"""Tiny data sets and one tiny run of each stage, trained once for all tests of this folder."""

import pytest

from mkd.config.load import load
from mkd.config.schema import KdRun, SemiRun, SupervisedRun
from mkd.recipes.distill import kd
from mkd.recipes.semi import semi
from mkd.recipes.supervised import supervised
from tests.helpers.shards import write_dataset
from tests.helpers.training.runs import LITE0, QUICK, RANDOM, coloured, retitle

OFTEN = ("save_every=2", "val_every=2", "log_every=1")
KINDS = {"supervised": SupervisedRun, "kd": KdRun, "semi": SemiRun}


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
    """Six labelled, six unlabelled and two validation tiles, and a source domain of four classes."""
    root = tmp_path_factory.mktemp("sets")
    found = {
        name: write_dataset(root / name, coloured(n, seed=seed), labelled=name != "unlabelled")
        for seed, (name, n) in enumerate({"labelled": 6, "unlabelled": 6, "val": 2, "source": 5}.items())
    }
    retitle(found["source"], ["grass", "path", "lake", "roof"])
    return found


@pytest.fixture(scope="session")
def config_of(sets):
    """A function (stage, *overrides) -> checked config on these sets."""

    def config(stage, *overrides):
        base = [f"data.labelled={sets['labelled']}", f"data.val={sets['val']}", *QUICK, *OFTEN, "steps=4"]
        if stage == "semi":
            base.append(f"data.unlabelled={sets['unlabelled']}")
        else:
            base += RANDOM if stage == "supervised" else LITE0
        if stage == "kd":
            base += ["kd.teacher_epochs=1", "kd.fisher_tiles=2", "optim.name=sgd"]
        return load(KINDS[stage], stage, [*base, *overrides])

    return config


@pytest.fixture(scope="session")
def runs(config_of, sets, tmp_path_factory):
    """Configs of three ended runs: a baseline on the source domain, a distillation from it, and the last stage."""
    root = tmp_path_factory.mktemp("runs")
    source = ["data.val=null", f"data.labelled={sets['source']}"]
    found = {"supervised": config_of("supervised", f"out={root / 'source'}", *source)}
    supervised(found["supervised"])
    given = [f"kd.source={root / 'source' / 'model'}", f"kd.source_data={sets['source']}"]
    found["kd"] = config_of("kd", f"out={root / 'kd'}", *given)
    kd(found["kd"])
    found["semi"] = config_of("semi", f"out={root / 'semi'}", f"semi.start={root / 'kd' / 'model'}")
    semi(found["semi"])
    return found
