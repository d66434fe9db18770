"""The light form of DeepLabV3+ on HRNets: what it leaves out, counted, and that it works."""

from dataclasses import replace

import pytest
import torch

from mkd.benchmarks.settings import CostRun
from mkd.config.load import load
from mkd.metrics.cost import cost
from mkd.models.architecture import Architecture
from mkd.models.build import build
from mkd.recipes.factories import architecture


@pytest.mark.parametrize("full", ["hrnet_w18_small", "hrnet_w48_psa"])
def test_what_the_light_form_leaves_out(full):
    """Against the full one: 8 of 9 taps of the neck's second convolution, 3 of 4 pixels of the ASPP; nothing else."""
    plain, light = (
        architecture(load(CostRun, "cost", [f"model={name}"]).model) for name in (full, f"{full}_light")
    )
    assert light == replace(plain, neck_kernel=1, aspp_stride=8, aspp_rates=(3, 6, 9))
    with torch.device("meta"):
        model = build(plain, 6)
        before, after = cost(model, 1024), cost(build(light, 6), 1024)
    channels, pixels = model.backbone.channels, 256**2
    taps = 8 * channels**2
    aspp = channels * 256 * (1 + 3 * 9) + 5 * 256 * 256  # 1x1, three 3x3, and the 1x1 over all five branches
    assert before.parameters - after.parameters == taps
    assert before.gmac - after.gmac == pytest.approx((taps * pixels + aspp * 3 / 4 * pixels) / 1e9)


@pytest.mark.parametrize("size", [(64, 64), (50, 97)])
def test_the_light_form_keeps_the_size(size):
    """Logits of any image have its size, and every weight gets a gradient."""
    small = {"aspp_channels": 8, "low_channels": 4, "decoder_channels": 8}
    plan = Architecture("hrnet_w18_small", neck_kernel=1, aspp_stride=8, aspp_rates=(1, 1, 1), **small)
    model = build(plan, 3).train()
    logits = model(torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 3, *size)
    logits.square().mean().backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in model.aspp.parameters())
