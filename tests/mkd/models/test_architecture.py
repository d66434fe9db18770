"""ASPP rates: which taps meet features, counted pixel by pixel, and by the gradient of a real network."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mkd.models.architecture import Architecture, fitting_rates, map_side, published_rates
from mkd.models.build import build


def meets(rate, side):
    """Whether an off-centre tap lies on a feature for some pixel of the map."""
    return any(0 <= at + rate < side for at in range(side))


@given(st.integers(2, 200), st.sampled_from([(3, 6, 9), (6, 12, 18), (12, 24, 36)]))
def test_fitting_rates_meet_features(side, base):
    """Every branch's outer taps meet a feature; rates that do are left alone, others grow from branch to branch."""
    rates = fitting_rates(base, side)
    assert all(meets(rate, side) for rate in rates)
    assert (rates == base) == all(meets(rate, side) for rate in base)
    assert list(rates) == sorted(rates)


@pytest.mark.parametrize(
    ("backbone", "stride", "rates"),
    [
        ("resnet101", 16, (6, 12, 18)),
        ("resnet101", 8, (12, 24, 36)),
        ("resnet101", 32, (3, 6, 9)),
        ("hrnet_w48", 16, (6, 12, 18)),
    ],
)
def test_published_rates(backbone, stride, rates):
    """They are what an architecture has that names none, as folders written before there was a key."""
    assert (
        published_rates(backbone, stride) == rates == Architecture(backbone, output_stride=stride).aspp_rates
    )


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("crop", [32, 64, 65, 96, 200, 512])
def test_map_side_is_the_aspps(crop, stride):
    """The side of the map is what the ASPP's branches really get."""
    plan = Architecture(
        "hrnet_w18_small", aspp_stride=stride, aspp_channels=4, decoder_channels=4, low_channels=4
    )
    net, seen = build(plan, 2).eval(), []
    net.aspp.point.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    with torch.inference_mode():
        net(torch.rand(1, 3, crop, crop))
    assert seen == [map_side(crop, plan.map_stride)]


def test_rates_of_the_light_form():
    """At stride 8 they are half of those at 4: as many pixels of the image."""
    assert Architecture("hrnet_w48", aspp_stride=8).aspp_rates == (3, 6, 9)


def test_fields_of_the_light_form_are_stored_where_it_is_light():
    """Networks of the full form are described as before there was another."""
    plain = Architecture("hrnet_w48").to_dict()
    light = Architecture("hrnet_w48", neck_kernel=1, aspp_stride=8).to_dict()
    assert not {"neck_kernel", "aspp_stride"} & set(plain)
    assert (light["neck_kernel"], light["aspp_stride"]) == (1, 8)
    assert set(light) == set(plain) | {"neck_kernel", "aspp_stride"}


@pytest.mark.parametrize("crop", [64, 96, 160])
@pytest.mark.parametrize("fits", [True, False])
def test_taps_that_fit_are_trained(crop, fits):
    """With fitting rates each tap of each branch gets a gradient; with the published ones some get exactly 0."""
    plan = Architecture("tf_efficientnet_lite0", aspp_channels=8, decoder_channels=8, low_channels=8)
    published = published_rates(plan.backbone, plan.output_stride)
    side = map_side(crop, plan.map_stride)
    rates = fitting_rates(published, side) if fits else published
    net = build(Architecture(**{**vars(plan), "aspp_rates": rates}), 3).train()
    net(torch.rand(4, 3, crop, crop)).square().mean().backward()
    taps = [branch[0].weight.grad.abs().sum(dim=(0, 1)) for branch in net.aspp.dilated]
    trained = [bool((tap > 0).all()) for tap in taps]
    assert all(trained) if fits else trained == [rate < side for rate in published]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"aspp_rates": (1, 2)}, "three whole numbers"),
        ({"aspp_rates": (0, 1, 2)}, "three whole numbers"),
        ({"decoder": "unet"}, "deeplab, fpn, dpt"),
        ({"output_stride": 4}, "8, 16 or 32"),
        ({"lateral_channels": 0}, "1 or more"),
        ({"neck_kernel": 1}, "for an HRNet"),
        ({"aspp_stride": 8}, "for an HRNet"),
        ({"aspp_stride": 16}, "4 or 8"),
        ({"neck_kernel": 5}, "1 or 3"),
    ],
)
def test_impossible_plans_are_refused(wrong, said):
    """One sentence with the key and what is allowed."""
    with pytest.raises(ValueError, match=f"^model.{next(iter(wrong))}.*{said}"):
        Architecture("resnet101", **wrong)
