"""DeepLabV3+: the method's network to the digit, and its behaviour on any input."""

import copy
import logging
from pathlib import Path

import pytest
import timm
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_model, save_model
from torch.nn import functional as F

from mkd.metrics.cost import cost
from mkd.models.architecture import Architecture
from mkd.models.backbone import NAMES, normalisation
from mkd.models.build import build
from mkd.models.dropout import SampleDropout, seed_dropout

CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "model").glob("*.yaml"))
SMALL = {"aspp_channels": 8, "low_channels": 4, "decoder_channels": 8}
LITE0 = Architecture("tf_efficientnet_lite0", **SMALL)
HRNET = Architecture("hrnet_w18_small", psa="paper", **SMALL)


def _read(path):
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in yaml.safe_load(path.read_text()).items()}
    mean, std = normalisation(fields["backbone"])
    return fields.pop("pretrained"), Architecture(**({"mean": mean, "std": std} | fields))


def _images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("file", "parameters", "gmac"),
    [("hrnet_w48", 78.03e6, 1158.7), ("hrnet_w48_psa", 79.94e6, 1260.8)],
)
def test_cost_of_table_1(file, parameters, gmac):
    """Table 1's HRNet rows come out as giga multiply-accumulates at 1024 x 1024, 6 classes."""
    _, architecture = _read(next(path for path in CONFIGS if path.stem == file))
    with torch.device("meta"):
        found = cost(build(architecture, 6), 1024)
    assert found.parameters == pytest.approx(parameters, rel=1e-3)
    assert found.gmac == pytest.approx(gmac, rel=1e-4)


def test_parts_of_the_hrnet_form():
    """HRNet: neck 720-720, ASPP rates 6, 12, 18, low level 256, decoder 512-256-256, dropout 0.5, 0.1."""
    _, architecture = _read(next(path for path in CONFIGS if path.stem == "hrnet_w48"))
    with torch.device("meta"):
        model = build(architecture, 6)
    assert [(b[0].in_channels, b[0].out_channels, b[0].kernel_size[0]) for b in model.neck] == [
        (720, 720, 1),
        (720, 720, 3),
    ]
    assert [branch[0].dilation[0] for branch in model.aspp.dilated] == [6, 12, 18]
    assert (model.low[0].in_channels, model.low[0].out_channels) == (256, 256)
    assert (model.decoder[0][0].in_channels, model.decoder[0][0].out_channels) == (512, 256)
    assert (model.decoder[1].p, model.decoder[3].p) == (0.5, 0.1)
    assert all(isinstance(model.decoder[n], SampleDropout) for n in (1, 3))
    assert isinstance(model.attention, torch.nn.Identity)


@pytest.mark.parametrize(("stride", "rates"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])])
def test_rates_follow_the_output_stride(stride, rates):
    """The ASPP looks equally far, in image pixels, at each output stride."""
    with torch.device("meta"):
        model = build(Architecture("resnet101", output_stride=stride), 6)
    assert [branch[0].dilation[0] for branch in model.aspp.dilated] == rates


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs(path):
    """Every model config builds, its weights exist and its normalisation is theirs."""
    pretrained, architecture = _read(path)
    with torch.device("meta"):
        assert build(architecture, 6)(torch.empty(1, 3, 65, 70)).shape == (1, 6, 65, 70)
    assert (architecture.mean, architecture.std) == normalisation(architecture.backbone)
    assert pretrained in (None, "bundled") or pretrained in timm.list_pretrained(f"{architecture.backbone}.*")


def test_configs_cover_every_backbone():
    """No backbone is without a config."""
    assert {a.backbone for _, a in map(_read, CONFIGS) if a.decoder == "deeplab"} == set(NAMES)


@pytest.mark.parametrize("architecture", [LITE0, HRNET], ids=lambda a: a.backbone)
def test_forward_by_hand(architecture):
    """Logits: normalise, backbone, neck, attention, ASPP, upsample, concat, decode, classify, upsample."""
    model = build(architecture, 5).eval()
    x = _images(2, 3, 64, 96)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (architecture.mean, architecture.std))
    low, deep = model.backbone((x - mean) / std)
    deep = model.aspp(model.attention(model.neck(deep)))
    deep = F.interpolate(deep, size=(16, 24), mode="bilinear", align_corners=False)
    z = model.classifier(model.decoder(torch.cat([deep, model.low(low)], 1)))
    torch.testing.assert_close(
        model(x), F.interpolate(z, scale_factor=4, mode="bilinear", align_corners=False)
    )


@settings(max_examples=12, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90))
def test_any_size(height, width):
    """Any H and W give logits of that H and W: those of the image whose last row and column are repeated."""
    x = _images(1, 3, height, width)
    rows = torch.arange(96).clamp(max=height - 1)
    columns = torch.arange(96).clamp(max=width - 1)
    h, w = (max(32, -(-side // 16) * 16) for side in (height, width))
    by_hand = x[:, :, rows[:h]][..., columns[:w]]
    z = _LITE0_MODEL(x)
    assert z.shape == (1, 5, height, width)
    torch.testing.assert_close(z, _LITE0_MODEL(by_hand)[..., :height, :width], rtol=1e-4, atol=1e-5)


_LITE0_MODEL = build(LITE0, 5).eval().requires_grad_(False)


@pytest.mark.parametrize("architecture", [LITE0, HRNET], ids=lambda a: a.backbone)
@pytest.mark.parametrize("shape", [(1, 3, 300, 300), (1, 3, 20, 33)])
def test_batch_of_one_trains(architecture, shape):
    """One image of an odd or tiny size trains: finite logits and a gradient for every weight."""
    model = build(architecture, 5).train()
    z = model(_images(*shape))
    assert z.shape == (1, 5, *shape[2:])
    assert z.isfinite().all()
    z.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_images_of_a_batch_do_not_mix_in_evaluation():
    """In evaluation mode the logits of an image do not depend on its neighbours in the batch."""
    x = _images(3, 3, 48, 48)
    torch.testing.assert_close(_LITE0_MODEL(x)[1:2], _LITE0_MODEL(x[1:2]), rtol=1e-4, atol=1e-5)


def test_channels_last_and_copies_agree():
    """Memory format and deep copies change no logit."""
    x = _images(2, 3, 64, 64)
    z = _LITE0_MODEL(x)
    other = copy.deepcopy(_LITE0_MODEL).to(memory_format=torch.channels_last)
    torch.testing.assert_close(other(x.to(memory_format=torch.channels_last)), z, rtol=1e-4, atol=1e-5)


def test_logits_are_float32_under_autocast():
    """In bfloat16 autocast the logits are still float32, so that losses and averages keep their digits."""
    with torch.autocast("cpu", torch.bfloat16):
        assert _LITE0_MODEL(_images(1, 3, 64, 64)).dtype == torch.float32


def test_features_feed_the_classifier():
    """features() gives the decoder's output at H/4, rounded up."""
    assert _LITE0_MODEL.features(_images(2, 3, 50, 64)).shape == (2, 8, 13, 16)


def test_seed_fixes_the_start_and_leaves_the_global_generator():
    """Equal seeds give equal weights, other seeds others, and torch's global generator does not move."""
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    a, b, c = (build(LITE0, 5, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["backbone.body.conv_stem.weight"], c["backbone.body.conv_stem.weight"])
    assert not torch.equal(a["classifier.weight"], c["classifier.weight"])


def test_pretrained_changes_the_backbone_only(tmp_path):
    """ImageNet weights fill the backbone; the head is the random one of the seed."""
    plain, loaded = build(LITE0, 5), build(LITE0, 5, "bundled")
    for part in ("neck", "attention", "aspp", "low", "decoder", "classifier"):
        pairs = zip(getattr(plain, part).parameters(), getattr(loaded, part).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(plain.backbone.body.conv_stem.weight, loaded.backbone.body.conv_stem.weight)


def test_other_normalisation_is_said(caplog):
    """Weights with a normalisation they were not trained with raise a warning, and the right one does not."""
    with caplog.at_level(logging.WARNING):
        build(Architecture("tf_efficientnet_lite0", mean=(0.5,) * 3, std=(0.5,) * 3, **SMALL), 5, "bundled")
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING):
        build(LITE0, 5, "bundled")
    assert "were trained with" in caplog.text


def test_safetensors_round_trip(tmp_path):
    """Saved and loaded into another start, the logits are the same; mean and std are not stored."""
    trained = copy.deepcopy(_LITE0_MODEL).train()
    trained(_images(2, 3, 64, 64))
    trained.eval()
    save_model(trained, str(tmp_path / "m.safetensors"))
    other = build(LITE0, 5, seed=9).eval()
    load_model(other, str(tmp_path / "m.safetensors"))
    x = _images(2, 3, 64, 64)
    assert torch.equal(other(x), trained(x))
    assert not {"mean", "std"} & set(trained.state_dict())


def test_reset_classifier():
    """A fresh classifier has the new class count, comes from the generator alone and touches nothing else."""
    model = build(LITE0, 5)
    before = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("classifier")}
    weights = []
    for seed in (1, 1, 2):
        model.reset_classifier(7, torch.Generator().manual_seed(seed))
        weights.append(model.classifier.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    assert model.num_classes == 7
    assert model.classifier.weight.requires_grad
    assert model.eval()(_images(1, 3, 32, 32)).shape == (1, 7, 32, 32)


def test_head_is_everything_but_the_backbone():
    """Head and backbone weights together are the model's, without overlap."""
    model = build(HRNET, 5)
    head = {id(p) for part in model.head_modules() for p in part.parameters()}
    backbone = {id(p) for p in model.backbone.parameters()}
    assert head & backbone == set()
    assert head | backbone == {id(p) for p in model.parameters()}
    assert id(model.classifier.weight) in head


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"psa": "yes"}, "none, paper or published"),
        ({"aspp_channels": 0}, "aspp_channels"),
        ({"dropout": (0.5, 1.0)}, "dropout"),
        ({"std": (0.5, 0.0, 0.5)}, "std"),
        ({"output_stride": 7}, "8, 16 or 32"),
        ({"backbone": "vgg"}, "model.backbone"),
    ],
)
def test_refuses_impossible(change, word):
    """Impossible values are refused by key, with what is allowed."""
    with pytest.raises(ValueError, match=word):
        build(Architecture(**{"backbone": "tf_efficientnet_lite0", **SMALL, **change}), 5)


@pytest.mark.parametrize("classes", [0, 1])
def test_refuses_too_few_classes(classes):
    """Fewer than two classes are refused."""
    with pytest.raises(ValueError, match="2 or more"):
        build(LITE0, classes)


@pytest.mark.parametrize("architecture", [LITE0, HRNET])
def test_dropout_is_all_chance_there_is_in_training(architecture):
    """Seeded, a training pass repeats exactly, leaves torch's generator alone, and differs in the next step."""
    model = build(architecture, 5).train()
    x, before = _images(2, 3, 64, 64), torch.get_rng_state()
    found = []
    for step in (0, 0, 1):
        seed_dropout(model, 0, step, [0, 1], 2)
        found.append(model(x).detach())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_runs(path):
    """Every configured network, randomly initialised, trains on one small image of an odd size, on seeded chance."""
    model = build(_read(path)[1], 6).train()
    seed_dropout(model, 0, 0, [0], 1)
    before = torch.get_rng_state()
    z = model(_images(1, 3, 65, 70))
    z.square().mean().backward()
    assert torch.equal(torch.get_rng_state(), before)
    assert z.shape == (1, 6, 65, 70)
    assert z.isfinite().all()
