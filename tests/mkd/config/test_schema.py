"""kd=paper and semi=paper are the method's figures."""

from dataclasses import asdict

import pytest
import yaml

from mkd.config.load import CONFIGS, parse
from mkd.config.schema import KdRun, ModelConfig, SemiRun

METHOD = {
    "epochs": 100,
    "data.batch": 8,
    "data.crop": 512,
    "data.scale": (0.5, 2.0),
    "data.aerial": True,
    "optim.name": "sgd",
    "optim.lr": 1e-3,
    "optim.momentum": 0.9,
    "optim.weight_decay": 1e-3,
    "optim.power": 0.9,
    "ohem.threshold": 0.7,
    "ohem.min_kept": 1 / 16,
    "kd.temperature": 3,
    "kd.weight": 1,
    "kd.ewc_weight": 1,
    "kd.anchor": "teacher",
    "kd.tiles": "labelled",
    "kd.student_init": "random",
    "kd.teacher_epochs": 20,
    "semi.weight": 1,
    "semi.average": "kept",
    "semi.cutmix": 0.5,
    "semi.paste": 0,
    "semi.confidence": 0.95,
    "semi.drop_start": 0.2,
    "semi.drop_end": 0,
    "semi.tile_entropy": None,
    "semi.ema_decay": 0.999,
    "semi.result": "student",
    "semi.plateau": None,
}


def value(config, key):
    for part in key.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize("key", METHOD)
def test_the_papers_choice_is_the_methods(key):
    """kd=paper and semi=paper train with the figures of the paper, whatever the defaults are."""
    given = ["out=x", "data.labelled=x"]
    runs = [
        parse(KdRun, "kd", ["kd=paper", *given]),
        parse(SemiRun, "semi", ["semi=paper", "semi.start=x", *given]),
    ]
    having = [run for run in runs if hasattr(run, key.split(".")[0])]
    assert having
    found = [value(run, key) for run in having]
    assert [tuple(v) if isinstance(v, list) else v for v in found] == [METHOD[key]] * len(having)


def test_unimatch_has_its_perturbations():
    """semi=unimatch has two strong views, half of the features dropped, 0.95 and plain cross-entropy."""
    run = parse(SemiRun, "semi", ["semi=unimatch", "semi.start=x", "out=x", "data.labelled=x"])
    found = (run.semi.strong_views, run.semi.feature_dropout, run.semi.cutmix, run.semi.confidence)
    assert found == (2, 0.5, 0.5, 0.95)
    assert run.ohem.threshold is None
    assert run.semi.average == "valid"


@pytest.mark.parametrize("name", ["supervised", "kd", "cost", "speed"])
def test_the_default_network_is_the_papers(name):
    """Without model= a run takes HRNetV2-W48 with the paper's attention and stage 1's 256 channels."""
    defaults = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["defaults"]
    assert {"model": "hrnet_w48_psa"} in defaults
    model = yaml.safe_load((CONFIGS / "model" / "hrnet_w48_psa.yaml").read_text())
    network = asdict(ModelConfig()) | model
    assert (network["backbone"], network["psa"], network["low_channels"]) == ("hrnet_w48", "paper", 256)
    assert (network["aspp_channels"], network["decoder_channels"]) == (256, 256)
    assert (network["dropout"], network["separable"]) == ((0.5, 0.1), False)


def test_configs_are_not_shared():
    """Two runs never share a part: changing one's optimizer leaves the other's."""
    one, other = KdRun(), KdRun()
    one.optim.lr = 7.0
    one.kd.weight = 7.0
    assert (other.optim.lr, other.kd.weight) == (KdRun().optim.lr, KdRun().kd.weight)
