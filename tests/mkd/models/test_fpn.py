"""The light decoder against its formula step by step, over families of backbones and odd sizes."""

import pytest
import torch
import torch.nn.functional as F

from mkd.models.architecture import Architecture
from mkd.models.build import build

LITE = Architecture("tf_efficientnet_lite0", decoder="fpn", lateral_channels=8, decoder_channels=8)


def test_logits_follow_the_formula():
    """Each lateral is applied to the enlarged map (the code enlarges after it), summed, decoded, classified."""
    net, images = build(LITE, 3).eval(), torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        maps = net.backbone.body((images - 0.485) / 0.229)
        plain = build(Architecture(**{**vars(LITE), "mean": (0.485,) * 3, "std": (0.229,) * 3}), 3).eval()
        total = torch.zeros(2, 8, 16, 24)
        for (conv, norm), found in zip(plain.laterals, maps, strict=True):
            total += norm(conv(F.interpolate(found, size=(16, 24), mode="bilinear", align_corners=False)))
        logits = plain.classifier(plain.decoder(total))
        wanted = F.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=False)
        torch.testing.assert_close(plain(images), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "tf_efficientnet_lite2",
        "mobilenetv3_small_050",
        "convnext_atto",
        "resnet18",
        "regnety_002",
        "hrnet_w18_small",
    ],
)
@pytest.mark.parametrize("size", [(70, 33), (1, 97)])
def test_any_backbone_with_stages(name, size):
    """Maps of the strides 4, 8, 16 and 32 are found by name; logits have the images' size, features a quarter."""
    net = build(Architecture(name, decoder="fpn", lateral_channels=8, decoder_channels=8), 3).eval()
    images = torch.rand(1, 3, *size)
    with torch.inference_mode():
        assert net(images).shape == (1, 3, *size)
        assert net.features(images).shape == (1, 8, *(-(-side // 4) for side in size))
    assert len(net.backbone.channels) == len(net.laterals) == 4


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "vit_small_patch14_dinov2", "vit_small_patch16_dinov3"]
)
def test_vision_transformers(name):
    """Tokens of four depths become maps, for images of any size."""
    net = build(Architecture(name, decoder="dpt", lateral_channels=8, decoder_channels=8), 3).eval()
    assert net.backbone.depths == [2, 5, 8, 11]
    with torch.inference_mode():
        assert net(torch.rand(1, 3, 50, 81)).shape == (1, 3, 50, 81)


@pytest.mark.parametrize("decoder", ["fpn", "dpt"])
def test_all_weights_are_trained(decoder):
    """At the smallest crop no tensor of the head has a gradient of exactly 0."""
    name = "tf_efficientnet_lite0" if decoder == "fpn" else "vit_tiny_patch16_224"
    net = build(
        Architecture(name, decoder=decoder, lateral_channels=8, decoder_channels=8, dropout=(0, 0)), 3
    )
    net.train()(torch.rand(4, 3, 32, 32)).square().mean().backward()
    assert not [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"backbone": "no_such_net"}, "model.backbone: 'no_such_net' gives no maps.*convnext_tiny"),
        ({"backbone": "vit_tiny_patch16_224"}, "model.backbone: 'vit_tiny.*model.decoder=dpt"),
        ({"backbone": "swin_tiny_patch4_window7_224"}, "model.backbone: 'swin.*features_only"),
        ({"backbone": "resnet18", "decoder": "dpt"}, "model.backbone: 'resnet18'.*model.decoder=fpn"),
        ({"backbone": "resnet18", "psa": "paper"}, "model.psa: 'paper' needs model.decoder=deeplab"),
        ({"backbone": "resnet18", "decoder": "deeplab"}, "model.backbone: 'resnet18'.*model=fpn"),
    ],
)
def test_networks_that_cannot_be_are_refused(plan, said):
    """One sentence: the name, why, and what goes."""
    with pytest.raises(ValueError, match=said):
        build(Architecture(**({"decoder": "fpn"} | plan)), 3)
