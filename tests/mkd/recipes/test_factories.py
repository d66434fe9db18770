"""From config to parts: fields that must agree, classes that must match, arithmetic of a phase."""

from dataclasses import asdict, fields, replace

import pytest
import torch

from mkd.benchmarks.settings import CostRun
from mkd.config.load import CONFIGS, load
from mkd.config.schema import DataConfig, ModelConfig, OhemConfig, SupervisedRun
from mkd.distributed.world import World
from mkd.models.architecture import Architecture
from mkd.models.build import build
from mkd.recipes import factories
from tests.helpers.shards import CLASSES
from tests.helpers.training.runs import CPU, phase_of


def test_config_and_architecture_have_the_same_fields():
    """ModelConfig is Architecture with `pretrained` and `checkpointing`, without the data's bands; defaults agree."""
    ours = asdict(ModelConfig())
    del ours["pretrained"], ours["checkpointing"]
    assert set(ours) == {f.name for f in fields(Architecture)} - {"scale"}
    assert factories.architecture(ModelConfig()) == Architecture(ModelConfig().backbone)


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONFIGS / "model").glob("*.yaml")))
def test_every_model_file_is_an_architecture(name):
    """Each file of configs/model arrives as tuples and numbers that Architecture accepts."""
    found = factories.architecture(load(CostRun, "cost", [f"model={name}"]).model)
    assert isinstance(found.mean, tuple)
    assert isinstance(hash(found), int)


def test_the_feed_is_the_configs(sets, tmp_path):
    """Crop, scale, turns, batch, seed and workers arrive; the unlabelled stream only where it is asked for."""
    sources = {"labelled": sets["labelled"], "unlabelled": sets["unlabelled"]}
    data = DataConfig(**sources, crop=48, batch=3, scale=(1.0, 1.5), aerial=False)
    feed = factories.batch_stream(data, 9, CPU, True, tmp_path)
    assert (feed.batch, feed.seed, feed.workers) == (3, 9, 2)
    assert (feed.geometry.crop, feed.geometry.scale, feed.geometry.aerial) == (48, (1.0, 1.5), False)
    assert (len(feed.labelled), len(feed.unlabelled)) == (6, 6)
    assert factories.batch_stream(data, 9, CPU, False, tmp_path).unlabelled is None
    assert [lost.allowed for lost in feed.bad_tiles] == [0, 0]  # 0.1 % of 6 tiles
    assert {lost.path for lost in feed.bad_tiles} == {tmp_path / "quarantine.jsonl"}
    second = factories.batch_stream(replace(data, batch=4), 9, World(1, 2, CPU.device), True, tmp_path)
    assert {lost.path for lost in second.bad_tiles} == {tmp_path / "quarantine-rank1.jsonl"}


def test_ohem_is_the_configs():
    """Threshold and least share arrive."""
    assert asdict(factories.supervised_loss(OhemConfig(0.6, 0.25))) == {"threshold": 0.6, "min_kept": 0.25}


def test_check_classes(sets):
    """Equal classes give the index; others are one sentence that names both sides in full."""
    assert factories.check_classes("data", sets["labelled"], CLASSES, "model").samples == 6
    with pytest.raises(
        ValueError, match=r"^data=.*has 3 classes \(field, road, water\) but model has 2 \(a, b\)"
    ):
        factories.check_classes("data", sets["labelled"], ("a", "b"), "model")


def test_load_checked(runs):
    """A model folder of the wanted architecture is loaded; of another it is refused by the values that differ."""
    folder = f"{runs['kd'].out}/model"
    wanted = factories.architecture(runs["kd"].model)
    assert factories.load_checked("kd.source", folder, wanted)[1].classes == CLASSES
    other = Architecture(**(asdict(wanted) | {"lateral_channels": 9}))
    with pytest.raises(ValueError, match=r"kd\.source=.*\(lateral_channels 96 there, 9 here\)"):
        factories.load_checked("kd.source", folder, other)


@pytest.mark.parametrize(
    ("epochs", "steps", "tiles", "total"),
    [(100, None, 880, 11000), (3, None, 10, 4), (0.01, None, 8, 1), (9, 5, 80, 5)],
)
def test_a_phase_counts_steps(epochs, steps, tiles, total):
    """epochs passes over the tiles in batches of 8, at least one step; `steps` overrides them."""
    phase = factories.phase(SupervisedRun(), "student", steps=total, tiles=tiles, lr=0.1)
    if steps is None:
        assert factories.length(epochs, tiles, 8, usual=7, least=3) == total
    assert (phase.steps, phase.steps_an_epoch, phase.lr) == (total, tiles / 8, 0.1)
    assert (phase.power, phase.log_every, phase.save_every, phase.val_every) == (0.9, 10, 200, 200)


@pytest.mark.parametrize(
    ("batch", "micro", "ranks", "passes"),
    [(8, None, 1, 1), (8, None, 4, 1), (8, 2, 1, 4), (8, 2, 4, 1), (8, 1, 2, 4)],
)
def test_a_batch_is_ranks_times_passes_times_micro(batch, micro, ranks, passes):
    """The number of forward passes is completed from the other three."""
    assert factories.micro_batches(DataConfig("x", batch=batch, micro=micro), ranks) == passes
    config = SupervisedRun(data=DataConfig("x", batch=batch, micro=micro))
    phase = factories.phase(config, "student", steps=80 // batch, tiles=80, lr=0.1, ranks=ranks)
    assert (phase.batch, phase.micro_batches, phase.steps) == (batch, passes, 80 // batch)


@pytest.mark.parametrize(
    ("batch", "micro", "ranks", "said"),
    [
        (8, None, 3, ["data.batch=8", "3 ranks", "data.micro=null", "data.batch=6 or 9, or another number"]),
        (8, 2, 3, ["data.batch=8", "3 ranks", "data.micro=2", "data.batch=6 or 12, or another number"]),
        (2, None, 3, ["data.batch=2", "3 ranks", "give data.batch=3, or another"]),
        (
            12,
            4,
            2,
            ["data.batch=12", "2 ranks", "data.micro=4", "all 6 tiles of a rank", "micro=1, 2, 3, 6 or"],
        ),
        (8, 4, 4, ["data.batch=8", "4 ranks", "data.micro=4", "data.batch=16, data.micro=1, 2 or null"]),
    ],
)
def test_a_batch_that_does_not_come_out_even(batch, micro, ranks, said):
    """One sentence with the three numbers and what would do."""
    with pytest.raises(ValueError, match=r"data\.batch=") as caught:
        factories.micro_batches(DataConfig("x", batch=batch, micro=micro), ranks)
    assert all(part in str(caught.value) for part in said)


def test_the_head_learns_faster(runs):
    """optim.head_factor multiplies the rate of everything but the backbone; each trained weight is in one group."""
    config = SupervisedRun()
    config.optim.head_factor = 10.0
    model = build(factories.architecture(runs["kd"].model), 3, None)
    model.classifier.requires_grad_(False)
    engine = factories.engine(config, model, CPU, phase_of(lr=0.01), 1)
    rates = {id(p): g["lr"] for g in engine.optimizer.param_groups for p in g["params"]}
    for name, p in model.named_parameters():
        if name.startswith("classifier."):
            assert id(p) not in rates
        else:
            assert rates[id(p)] == pytest.approx(0.01 if name.startswith("backbone.") else 0.1)
    assert engine.model is model


def test_validation_is_on_whole_tiles_or_not_at_all(sets, runs):
    """Without data.val there is no validation; with it every pixel of it counts."""
    assert factories.validator(DataConfig(sets["labelled"]), CPU) is None
    model = build(factories.architecture(runs["kd"].model), 3, None)
    data = DataConfig(sets["labelled"], val=sets["val"], batch=2, workers=0)
    matrix = factories.validator(data, CPU)(model)
    assert matrix.matrix.sum() == torch.tensor(factories.read_index(sets["val"]).histogram).sum()


def test_rates_follow_crop_and_source():
    """Null rates fit the crop, or are the source's; given ones that reach beyond the crop are refused."""
    plain = load(CostRun, "cost", ["model=lite0_deeplab"]).model  # output stride 32
    assert factories.architecture(plain).aspp_rates == (3, 6, 9)
    assert factories.architecture(plain, 512).aspp_rates == (3, 6, 9)
    assert factories.architecture(plain, 96).aspp_rates == (1, 1, 2)
    source = factories.architecture(plain, 160)
    assert source.aspp_rates == (1, 3, 4)
    assert factories.architecture(plain, 512, source).aspp_rates == (1, 3, 4)
    given = replace(plain, aspp_rates=(1, 2, 3))
    assert factories.architecture(given, 128).aspp_rates == (1, 2, 3)
    with pytest.raises(
        ValueError, match=r"^model.aspp_rates=\[1, 2, 3\]: .* branch 3 .*3 x 3 .*data.crop=97 or more"
    ):
        factories.architecture(given, 96)
    assert factories.architecture(given, 97).aspp_rates == (1, 2, 3)
    assert factories.unfit_rates(source, 96).startswith(
        "model.aspp_rates=[1, 3, 4]: the outer taps of branch 2"
    )
    assert (
        factories.unfit_rates(factories.architecture(load(CostRun, "cost", ["model=lite0"]).model), 32) == ""
    )


def test_what_is_filled_in_is_kept():
    """The run folder's config names normalisation and rates."""
    config = load(CostRun, "cost", ["model=lite0_deeplab", "model.mean=null", "model.std=null"]).model
    factories.settle(config, factories.architecture(config, 96))
    assert (config.mean, config.std, config.aspp_rates) == ((0.5,) * 3, (0.5,) * 3, (1, 1, 2))
