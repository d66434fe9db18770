"""UniMatch's step as a peer: its loss pixel by pixel, its boxes, its dropped features."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mkd.benchmarks.step import unimatch
from mkd.benchmarks.step.plain_views import PlainTiles, write_files
from mkd.benchmarks.step.unimatch import box_masks, feature_dropout, unimatch_loss
from mkd.config.schema import DataConfig, SemiConfig, SemiRun
from tests.helpers.shards import write_dataset

SIDE = 12


class Net(torch.nn.Module):
    """A backbone of two maps without BatchNorm, so that a batch's parts can be computed one by one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = Maps()
        self.head = torch.nn.Conv2d(8, 3, 1)

    def forward(self, x):
        low, deep = self.backbone(x)
        return self.head(torch.cat([low, deep], dim=1)) * 3


class Maps(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.low, self.deep = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.low(x), self.deep(x)


def views(seed, count=2):
    """Return a weak and two strong views, and pixels inside, the last columns not."""
    g = torch.Generator().manual_seed(seed)
    inside = torch.ones(count, SIDE, SIDE, dtype=torch.bool)
    inside[:, :, 10:] = False
    return *(torch.rand(count, 3, SIDE, SIDE, generator=g) * 4 for _ in range(3)), inside


def consistency(logits, targets, sure, inside):
    """Sum -log p of each sure pixel inside, over the number of pixels inside."""
    total = sum(
        -logits[n, :, y, x].log_softmax(0)[targets[n, y, x]]
        for n, y, x in np.ndindex(*targets.shape)
        if sure[n, y, x] and inside[n, y, x]
    )
    return total / int(inside.sum())


def test_the_loss_is_the_papers(monkeypatch):
    """Half of L_x and the mean of strong and perturbed losses; boxes bring the other tile's labels and surety."""
    run, net = SemiRun(semi=SemiConfig(confidence=0.5)), Net().train()
    labels = torch.randint(0, 3, (2, SIDE, SIDE), generator=torch.Generator().manual_seed(1)).byte()
    images, unlabelled, mixed = views(2)[0], views(3), views(4)
    boxes = torch.zeros(2, 2, SIDE, SIDE, dtype=torch.bool)  # of each strong view, of each tile
    boxes[0, 0, 2:6, 1:9], boxes[1, 1, :, 4:] = True, True
    given = iter(boxes)
    monkeypatch.setattr(unimatch, "box_masks", lambda *_: next(given))
    monkeypatch.setattr(F, "dropout2d", lambda m, p: m * 0.5)  # a perturbation that one can repeat
    found = unimatch_loss(run, net, (images, labels), unlabelled, mixed)
    # each part by itself
    (weak, *strong, inside), (other, *other_strong, other_inside) = unlabelled, mixed
    p, q = net(weak).softmax(1).max(1), net(other).softmax(1).max(1)
    assert 0 < int((p.values >= 0.5).sum()) < p.values.numel()
    wanted = F.cross_entropy(net(images), labels.long())
    for box, ours, theirs in zip(boxes, strong, other_strong, strict=True):
        logits = net(torch.where(box[:, None], theirs, ours))
        parts = [torch.where(box, b, a) for a, b in ((p.indices, q.indices), (p.values, q.values))]
        there = torch.where(box, other_inside, inside)
        wanted = wanted + 0.25 * consistency(logits, parts[0], parts[1] >= 0.5, there)
    halved = net.head(torch.cat([m * 0.5 for m in net.backbone(weak)], dim=1)) * 3
    wanted = wanted + 0.5 * consistency(halved, p.indices, p.values >= 0.5, inside)
    torch.testing.assert_close(found, wanted / 2)
    assert net.training
    found.backward()
    assert all(float(w.grad.abs().sum()) > 0 for w in net.parameters())


def test_half_of_the_features_are_dropped():
    """Whole channels, doubled where they stay; afterwards the network is as before."""
    net, x = Net(), views(2)[0]
    with feature_dropout(net):
        plain, dropped = net.backbone(x)[0].chunk(2)
    torch.testing.assert_close(plain, net.backbone(x)[0])
    ratio = dropped / plain
    assert all(
        bool((r == 0).all()) or bool(torch.isclose(r, torch.tensor(2.0)).all()) for r in ratio.flatten(0, 1)
    )
    assert len(net.backbone(x)[0]) == len(x)


def test_boxes():
    """Rectangles of 2 to 40 % of the pixels, in about half of the tiles."""
    random.seed(0)
    masks = box_masks(200, 64, torch.device("cpu"))
    areas = masks.flatten(1).sum(1)
    assert 70 < int((areas > 0).sum()) < 130
    for mask, area in zip(masks, areas, strict=True):
        if area:
            rows, cols = mask.nonzero(as_tuple=True)
            assert (rows.max() - rows.min() + 1) * (cols.max() - cols.min() + 1) == area
            assert 0.015 < area / 64**2 <= 0.4


@pytest.mark.parametrize("strong", [1, 2])
def test_tiles_have_strong_views(tmp_path, strong):
    """As many as are asked for, each drawn by itself, between the weak view and the pixels inside."""
    pixels = np.random.default_rng(0).integers(0, 255, (1, 32, 32, 3), np.uint8)
    data = write_dataset(tmp_path / "set", [(pixels[0], np.zeros((32, 32), np.uint8))])
    tiles = PlainTiles(write_files(data, tmp_path / "files"), DataConfig(crop=16), False, strong)
    random.seed(1)
    torch.manual_seed(1)
    weak, *found, inside = tiles[0]
    assert len(found) == strong
    assert {v.shape for v in (weak, *found)} == {(3, 16, 16)}
    assert inside.dtype == torch.bool
    assert len({float(v.sum()) for v in found}) == strong
