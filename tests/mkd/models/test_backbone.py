"""Backbones: shapes, strides, and agreement with timm's own feature extraction."""

import pytest
import timm
import torch
from torch.nn import functional as F

from mkd.models.backbone import NAMES, create_backbone, normalisation
from mkd.models.ibn import IBN

HEAVY = {"hrnet_w48", "resnet101", "resnext101_32x8d", "resnet101_ibn_a", "xception71"}
DILATABLE = [name for name in NAMES if not name.startswith("hrnet")]


def _named(names):
    return [pytest.param(n, marks=pytest.mark.slow) if n in HEAVY else n for n in names]


@pytest.mark.parametrize("name", _named(NAMES))
def test_forward_and_backward(name):
    """Every backbone trains on a tiny image; both maps have the strides and channels announced."""
    torch.manual_seed(0)
    backbone = create_backbone(name, 16)
    low, deep = backbone(torch.randn(1, 3, 64, 96))
    stride = 4 if name.startswith("hrnet") else 16
    assert low.shape == (1, backbone.low_channels, 16, 24)
    assert deep.shape == (1, backbone.channels, 64 // stride, 96 // stride)
    (low.mean() + deep.mean()).backward()
    assert all(p.grad is not None for p in backbone.parameters())


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("name", DILATABLE)
def test_output_stride(name, stride):
    """The deep map has the stride asked for, and the shallow one stays at 4."""
    with torch.device("meta"):
        backbone = create_backbone(name, stride).eval()
        low, deep = backbone(torch.empty(1, 3, 128, 128))
    assert low.shape[-1] == 32
    assert deep.shape[-1] == 128 // stride


@pytest.mark.parametrize("name", NAMES)
def test_weights_do_not_depend_on_output_stride(name):
    """Weights trained at stride 32 fit at 8 and 16 (timm alone drops Xception shortcuts there)."""
    shapes = []
    for stride in (8, 16, 32):
        with torch.device("meta"):
            state = create_backbone(name, stride).body.state_dict()
        shapes.append({key: value.shape for key, value in state.items()})
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_timms(name):
    """Every tensor has the name and shape of timm's ImageNet network, but for IBN's own norms."""
    with torch.device("meta"):
        ours = create_backbone(name, 16).body.state_dict()
        theirs = timm.create_model(name.removesuffix("_ibn_a")).state_dict()
    extra = {k for k in ours if k not in theirs or ours[k].shape != theirs[k].shape}
    assert all(".bn1.IN." in key or ".bn1.BN." in key for key in extra)
    assert bool(extra) == (name == "resnet101_ibn_a")


def test_hrnet_is_timms():
    """The deep map is timm's four branches upsampled, the shallow one stage 1's output."""
    torch.manual_seed(0)
    backbone = create_backbone("hrnet_w18_small", 16).eval()
    stage1 = []
    backbone.body.layer1.register_forward_hook(lambda module, inputs, output: stage1.append(output))
    x = torch.randn(2, 3, 64, 96)
    low, deep = backbone(x)
    branches = backbone.body(x)[1:]
    up = [F.interpolate(b, size=(16, 24), mode="bilinear", align_corners=False) for b in branches]
    torch.testing.assert_close(deep, torch.cat(up, 1))
    torch.testing.assert_close(low, stage1[0])


@pytest.mark.slow
def test_xception_is_timms():
    """Both maps are what timm's hooks extract from the same weights."""
    torch.manual_seed(0)
    backbone = create_backbone("xception71", 16).eval()
    theirs = timm.create_model("xception71", features_only=True, output_stride=16, out_indices=(1, 4)).eval()
    renamed = {
        k.replace("_", ".", 1) if k.startswith(("stem_", "blocks_")) else k: k for k in theirs.state_dict()
    }
    ours = backbone.body.state_dict()
    theirs.load_state_dict({key: ours[name] for name, key in renamed.items()})
    x = torch.randn(1, 3, 64, 64)
    for a, b in zip(backbone(x), theirs(x), strict=True):
        torch.testing.assert_close(a, b)


def test_ibn_backbone_has_ibn():
    """resnet101_ibn_a has one IBN a block of layers 1-3: 3 + 4 + 23."""
    with torch.device("meta"):
        backbone = create_backbone("resnet101_ibn_a", 16)
    assert sum(isinstance(m, IBN) for m in backbone.modules()) == 30


def test_normalisation():
    """Lite0 and Xception weights expect images around 0.5, the others ImageNet's statistics."""
    assert normalisation("tf_efficientnet_lite0") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert normalisation("resnet101_ibn_a") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("name", "stride", "word"), [("resnet9", 16, "resnet101"), ("resnet101", 4, "8, 16 or 32")]
)
def test_refuses_impossible(name, stride, word):
    """Unknown names and strides are refused with what is allowed."""
    with pytest.raises(ValueError, match=word):
        create_backbone(name, stride)
