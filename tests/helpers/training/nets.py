"""Networks of a few dozen weights that follow the model's call convention."""

import torch
from torch import nn

from mkd.models.dropout import SampleDropout


def tiny_net(classes=3, seed=0):
    """Return 3x3 conv, BatchNorm (with an integer buffer), ReLU, dropout, 1x1 classifier; keeps the size."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        SampleDropout(0.5),
        nn.Conv2d(4, classes, 1),
    )


def perturb(model, seed, scale=0.1):
    """Move every weight and every BatchNorm statistic a little, as a training step would."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for t in model.state_dict().values():
            if t.is_floating_point():
                t += (torch.rand(t.shape, generator=g) * scale).to(t)  # positive: variances stay positive
            else:
                t += 1
