"""Instance-batch normalisation against statistics taken by hand."""

import timm
import torch
from torch import nn

from mkd.models.ibn import IBN, apply_ibn_a


def test_halves_are_instance_and_batch_norm():
    """The first half is normalised per image, the second over the batch."""
    torch.manual_seed(0)
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64) * 3 + 1
    y = IBN(6).double()(x)
    first, second = x[:, :3], x[:, 3:]
    per_image = (first - first.mean((2, 3), keepdim=True)) / (
        first.var((2, 3), unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    per_batch = (second - second.mean((0, 2, 3), keepdim=True)) / (
        second.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(y, torch.cat([per_image, per_batch], 1))


def test_first_half_forgets_contrast_and_brightness():
    """Brightness and contrast of one image change the second half only."""
    torch.manual_seed(0)
    norm, x = IBN(8).double(), torch.randn(2, 8, 16, 16, dtype=torch.float64)
    restyled = x.clone()
    restyled[0] = restyled[0] * 4 + 2
    a, b = norm(x), norm(restyled)
    torch.testing.assert_close(a[:, :4], b[:, :4], rtol=1e-4, atol=1e-4)
    assert (a[:, 4:] - b[:, 4:]).abs().max() > 0.1


def test_odd_channels():
    """An odd channel count gives the larger half to BatchNorm and keeps every channel."""
    norm = IBN(5)
    assert (norm.IN.num_features, norm.BN.num_features) == (2, 3)
    assert norm(torch.randn(2, 5, 4, 4)).shape == (2, 5, 4, 4)


def test_placement_in_resnet():
    """IBN replaces the first norm of each block in layers 1-3 and nothing else; the weight count stays."""
    net = timm.create_model("resnet18")
    count = sum(p.numel() for p in net.parameters())
    apply_ibn_a(net)
    names = {name for name, module in net.named_modules() if isinstance(module, IBN)}
    assert names == {f"layer{i}.{j}.bn1" for i in (1, 2, 3) for j in (0, 1)}
    assert isinstance(net.layer4[0].bn1, nn.BatchNorm2d)
    assert sum(p.numel() for p in net.parameters()) == count
