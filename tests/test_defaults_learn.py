"""README's commands with their defaults, on a small set and few steps: each beats the commonest class clearly."""

import json

import pytest

from mkd.config.schema import DemoRun
from mkd.dataset.index import read_index
from mkd.recipes.tables.demo import _data
from tests.helpers.training.runs import launch

SMALL = ["data.crop=96", "data.batch=4", "data.workers=0", "device=cpu", "save_every=500", "val_every=60"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Drawn landscapes: an intermediate set, and a target with 30 labelled tiles of 128 pixels."""
    out = tmp_path_factory.mktemp("drawn")
    _data(
        DemoRun(
            str(out), scene=768, tile=128, block=384, intermediate_scenes=1, target_scenes=3, labelled=30
        ),
        out,
    )
    return out / "data"


def score(model, test):
    """Return mIoU on a data set, and that of a map of its commonest class."""
    out = model.parent / "results.json"
    assert launch("evaluate", f"model={model}", f"data={test}", f"out={out}", "device=cpu") == 0
    counts = read_index(test).histogram
    present = sum(n > 0 for n in counts)
    return json.loads(out.read_text())["miou"], max(counts) / sum(counts) / present


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "start"),
    [(["model=lite0"], []), (["model=hrnet_w18_small", "model.pretrained=null"], ["student_init=random"])],
    ids=["lite0", "hrnet_w18_small"],
)
def test_every_stage_learns(data, tmp_path, network, start):
    """Fine-tuning, two stages of distillation and the semi-supervised stage, as in README, 120 steps each."""
    target, between = data / "target", data / "intermediate"
    base = [*SMALL, f"data.labelled={target}/labelled", f"data.val={target}/val", "steps=120"]
    first = [*SMALL, f"data.labelled={between}/train", f"data.val={between}/val", "steps=120"]
    source = [f"kd.source={tmp_path}/stage1/model", f"kd.source_data={between}/train", "kd.fisher_tiles=16"]
    typed = {
        "base": ["supervised", *base, *network, *start],
        "stage1": ["kd", *first, *network, "kd.fisher_tiles=16"],
        "stage2": ["kd", *base, *network, *source],
        "ssl": ["semi", *base, f"data.unlabelled={target}/unlabelled", f"semi.start={tmp_path}/stage2/model"],
    }
    if start:  # no ImageNet weights for the first stage: the fine-tuned network takes its place
        typed["stage1"] = ["supervised", *first, *network, *start]
    for name, (script, *words) in typed.items():
        assert launch(script, *words, f"out={tmp_path / name}") == 0, name
        if name != "stage1":
            found, commonest = score(tmp_path / name / "model", target / "test")
            assert found > 2 * commonest, name
