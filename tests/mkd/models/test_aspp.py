"""ASPP: its branches, and the image-pooling branch at batch 1."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mkd.models.aspp import ASPP, PooledBatchNorm, conv_bn_relu


def _norm(x, bn):
    """BatchNorm in training mode, by hand."""
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    return (x - mean) / (var + bn.eps).sqrt() * bn.weight.view(1, -1, 1, 1) + bn.bias.view(1, -1, 1, 1)


def _block(x, block, dilation=1):
    kernel = block[0].weight.shape[-1]
    return _norm(
        F.conv2d(x, block[0].weight, padding=dilation * (kernel // 2), dilation=dilation), block[1]
    ).relu()


def test_equals_reference():
    """The result projects point, dilated (each at its own rate) and pooled branches, in this order."""
    torch.manual_seed(0)
    aspp = ASPP(5, 4, rates=(2, 3)).double()
    x = torch.randn(3, 5, 9, 7, dtype=torch.float64)
    pooled = _block(x.mean((2, 3), keepdim=True), aspp.pooled).expand(-1, -1, 9, 7)
    parts = [_block(x, aspp.point), _block(x, aspp.dilated[0], 2), _block(x, aspp.dilated[1], 3), pooled]
    torch.testing.assert_close(aspp(x), _block(torch.cat(parts, 1), aspp.project))


def test_batch_of_one_trains():
    """One image in training mode: finite result, gradients everywhere, pooled statistics untouched."""
    torch.manual_seed(0)
    aspp = ASPP(5, 4)
    before = aspp.pooled[1].running_mean.clone()
    aspp(torch.randn(1, 5, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in aspp.parameters())
    assert torch.equal(aspp.pooled[1].running_mean, before)


def test_batch_of_one_uses_running_statistics():
    """Of one value a channel, training mode gives what evaluation mode gives."""
    torch.manual_seed(0)
    norm = PooledBatchNorm(6)
    norm(torch.randn(5, 6, 1, 1))
    x = torch.randn(1, 6, 1, 1)
    trained = norm(x)
    torch.testing.assert_close(trained, norm.eval()(x))
    assert not torch.allclose(trained, x)


@pytest.mark.parametrize("shape", [(2, 6, 1, 1), (1, 6, 2, 1)])
def test_larger_batches_are_plain_batchnorm(shape):
    """With two or more values a channel, result and running statistics are nn.BatchNorm2d's."""
    torch.manual_seed(0)
    x = torch.randn(shape)
    ours, plain = PooledBatchNorm(6), nn.BatchNorm2d(6)
    torch.testing.assert_close(ours(x), plain(x))
    torch.testing.assert_close(ours.running_var, plain.running_var)


def test_converts_to_synchronised():
    """Conversion to BatchNorm synchronised over ranks replaces the pooled norm like any other."""
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(ASPP(5, 4))
    assert isinstance(converted.pooled[1], nn.SyncBatchNorm)


def test_separable_block_keeps_size_and_is_smaller():
    """A separable block gives the same shape with k*k*C + C*D convolution weights."""
    dense, separable = (conv_bn_relu(8, 6, 3, dilation=2, separable=s) for s in (False, True))
    x = torch.randn(2, 8, 7, 5)
    assert dense(x).shape == separable(x).shape == (2, 6, 7, 5)
    assert sum(p.numel() for p in separable.parameters() if p.ndim == 4) == 9 * 8 + 8 * 6
