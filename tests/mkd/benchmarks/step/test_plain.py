"""The plain loop computes what the product computes: each of its formulas against the product's, and its views."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mkd.benchmarks.step import plain
from mkd.benchmarks.step.plain import cutmix, kd_loss, ohem_loss, semi_loss, supervised_loss, update_average
from mkd.benchmarks.step.plain_views import PlainTiles, write_files
from mkd.config.schema import DataConfig, KdConfig, KdRun, OhemConfig, SemiConfig, SemiRun
from mkd.losses.distillation import distillation_loss
from mkd.losses.ewc import ewc_penalty
from mkd.losses.ohem import ohem_cross_entropy
from mkd.semi.ema import EMA
from tests.helpers.shards import write_dataset


def network(seed):
    """Return a small network with BatchNorm and three classes."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 3, 1)
    )


def batch(seed, count=2, side=16):
    """Return images and labels, some of them 255."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count, side, side), generator=g, dtype=torch.uint8)
    labels[torch.rand(labels.shape, generator=g) < 0.2] = 255
    return torch.rand(count, 3, side, side, generator=g), labels


@pytest.mark.parametrize("ohem", [OhemConfig(0.7, 1 / 16), OhemConfig(0.1, 0.5), OhemConfig(None)])
def test_l_sup_is_the_products(ohem):
    """Up to the one pixel at the border, which the product keeps and HRNet's repository does not."""
    images, labels = batch(0, side=64)
    logits = network(1)(images) * 3
    found = ohem_loss(logits, labels.long(), ohem)
    if ohem.threshold is None:
        wanted = F.cross_entropy(logits, labels.long(), ignore_index=255)
    else:
        wanted = ohem_cross_entropy(logits, labels, ohem.threshold, int(ohem.min_kept * labels.numel()))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=0)


def test_the_kd_loss_is_the_products():
    """L_sup + w_kd L_KD + w_ewc L_EWC by the functions of mkd.losses, with gradients of the student alone."""
    run = KdRun(kd=KdConfig(weight=0.3, ewc_weight=0.2))
    student, teacher, (images, labels) = network(1), network(2).requires_grad_(False), batch(3)
    anchor = {n: torch.rand_like(p) for n, p in student.named_parameters()}
    fisher = {n: torch.rand_like(p) for n, p in student.named_parameters()}
    found = kd_loss(run, student, teacher, anchor, fisher, (images, labels))
    z_s, z_t = student(images), teacher(images)
    wanted = (
        supervised_loss(run, student, (images, labels))
        + 0.3 * distillation_loss(z_s, z_t, run.kd.temperature, labels != 255)
        + 0.2 * ewc_penalty(student.named_parameters(), anchor, fisher)
    )
    torch.testing.assert_close(found, wanted)
    found.backward()
    assert all(p.grad is not None for p in student.parameters())


def test_the_semi_loss_counts_confident_pixels_of_ordinary_tiles(monkeypatch):
    """Of four tiles that with the highest entropy is left out, and of the others what is unsure or outside."""
    monkeypatch.setattr(plain, "cutmix", lambda images, labels, share: (images, labels))
    run = SemiRun(semi=SemiConfig(confidence=0.6, weight=2.0, drop_start=0.25))
    student, teacher = network(1), network(2).eval()
    images, labels = batch(3, 4)
    weak, strong, inside = batch(4, 4)[0] * 8, batch(5, 4)[0], torch.ones(4, 16, 16, dtype=torch.bool)
    inside[:, :, 12:] = False
    found = semi_loss(run, student, teacher, (images, labels), (weak, strong, inside))
    # pixel by pixel
    with torch.no_grad():
        p = teacher(weak).softmax(1)
    entropy = [float(-(p[n] * p[n].log()).sum(0).mean()) for n in range(4)]
    logits, total, kept = student(torch.cat([images, strong])), 0.0, 0
    for n in range(4):
        for y, x in np.ndindex(16, 16):
            if inside[n, y, x] and p[n, :, y, x].max() >= 0.6 and entropy[n] < max(entropy):
                total = total - logits[4 + n, :, y, x].log_softmax(0)[p[n, :, y, x].argmax()]
                kept += 1
    assert 50 < kept < 500
    wanted = ohem_loss(logits[:4], labels.long(), run.ohem) + 2.0 * total / int(inside.sum())
    torch.testing.assert_close(found, wanted)


def test_the_average_is_the_products():
    """Weights and statistics after three updates; counters are copied."""
    student = network(1)
    ours, teacher = EMA(student, 0.9), copy.deepcopy(student)
    for n in range(3):
        with torch.no_grad():
            for p in student.parameters():
                p += n + 1
        student(batch(n)[0])  # moves the statistics
        update_average(teacher, student, ours.decay())
        ours.update(student)
    for name, t in teacher.state_dict().items():
        torch.testing.assert_close(t, ours.state[name])


def test_cutmix_takes_a_box_of_the_next_tile():
    """Image and label alike, from one rectangle of 2 to 40 % of the area, about; with share 0 nothing."""
    labels = torch.arange(3)[:, None, None].expand(3, 64, 64).contiguous()
    images = labels[:, None].float().expand(3, 3, 64, 64).contiguous()
    mixed, mixed_labels = cutmix(images, labels, 1.0)
    assert torch.equal(mixed, mixed_labels[:, None].float().expand_as(mixed))
    for n, each in enumerate(mixed_labels):
        rows, cols = (each == (n + 1) % 3).nonzero(as_tuple=True)
        box = each[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1]
        assert (box == (n + 1) % 3).all()
        assert 0.01 < box.numel() / 64**2 < 0.45
        assert ((each == n).sum() + box.numel()) == 64**2
    assert torch.equal(cutmix(images, labels, 0.0)[0], images)


def test_the_files_are_the_tiles_of_the_data_set(tmp_path):
    """The same bytes as in the shards; views are crops of them, 255 and black beyond the edge."""
    rng = np.random.default_rng(0)
    pairs = [
        (rng.integers(1, 256, (24, 40, 3), np.uint8), rng.integers(0, 3, (24, 40), np.uint8))
        for _ in range(3)
    ]
    data = write_dataset(tmp_path / "set", pairs)
    folder = write_files(str(data), tmp_path / "files")
    found = {
        Image.open(path).convert("RGB").tobytes() for path in folder.glob("*.png") if "label" not in path.name
    }
    assert found == {image.tobytes() for image, _ in pairs}
    assert len(list(folder.glob("*.label.png"))) == 3
    config = DataConfig(crop=32, scale=(1.0, 1.0))
    tiles = PlainTiles(folder, config, labelled=True)
    assert len(tiles) == 3
    image, label = tiles[0]
    assert (image.shape, image.dtype) == ((3, 32, 32), torch.float32)
    assert (label.shape, label.dtype) == ((32, 32), torch.uint8)
    outside = label == 255
    assert int(outside.sum()) == 32 * 8  # 24 rows of 32
    assert (image[:, outside] == 0).all()
    assert (image[:, ~outside] > 0).all()
    stored = {tuple(p) for p in pairs[0][0].reshape(-1, 3)}
    assert {tuple(p) for p in (image[:, ~outside].T * 255).round().to(torch.uint8).tolist()} <= stored
    weak, strong, inside = PlainTiles(folder, config, labelled=False)[0]
    assert weak.shape == strong.shape == (3, 32, 32)
    assert int(inside.sum()) == 32 * 24
    assert 0 <= float(strong.min()) <= float(strong.max()) <= 1


def test_the_plain_loop_refuses_other_bands(tmp_path, monkeypatch):
    """Pillow opens 8-bit RGB; one sentence names the data set and what it has."""
    index = SimpleNamespace(bands=4, dtype="uint16")
    monkeypatch.setattr(
        "mkd.benchmarks.step.plain_views.TileSet", lambda *_, **__: SimpleNamespace(index=index)
    )
    with pytest.raises(ValueError, match="data=far has 4 bands of uint16; the plain loop reads 8-bit RGB"):
        write_files("far", tmp_path / "files")
    assert not (tmp_path / "files").exists()
