"""A map does not depend on where its scene was cut out; and little on its windows if they are wider than the view."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mkd.geo.grid import Window
from mkd.geo.raster import RasterReader, RasterWriter
from mkd.synth.landscape import STYLES, render
from tests.helpers.maps import predict_map

SIDE, TILE, OVERLAP = 320, 96, 48


@pytest.fixture(scope="module")
def trained():
    """A network that sees 13 x 13 pixels and has padding, after 100 steps on a landscape; and another landscape."""
    torch.manual_seed(0)
    classes = len(STYLES["target"].classes)
    body = [nn.BatchNorm2d(3), nn.Conv2d(3, 16, 5, padding=2), nn.BatchNorm2d(16), nn.ReLU()]
    body += [nn.Conv2d(16, 16, 5, padding=2), nn.BatchNorm2d(16), nn.ReLU()]
    model = nn.Sequential(*body, nn.Conv2d(16, classes, 5, padding=2))
    scene, other = render("target", SIDE, SIDE, 3), render("target", SIDE, SIDE, 4)
    image, label = torch.from_numpy(scene.image).permute(2, 0, 1) / 255, torch.from_numpy(scene.label).long()
    optimizer, generator = torch.optim.Adam(model.parameters(), 3e-3), torch.Generator().manual_seed(0)
    for _ in range(100):
        row, column = torch.randint(0, SIDE - 64, (2,), generator=generator).tolist()
        part = (slice(row, row + 64), slice(column, column + 64))
        loss = F.cross_entropy(model(image[(slice(None), *part)][None]), label[part][None])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        right = model.eval()(image[None]).argmax(1)[0] == label
    commonest = torch.bincount(label.flatten()).max() / label.numel()
    assert right.float().mean() > commonest + 0.02  # it has learned
    return model, other.image


def map_of(model, image, folder):
    """Map an array in windows; return the class ids."""
    height, width = image.shape[:2]
    with RasterWriter(folder / "in.tif", height, width, 3, "uint8") as writer:
        writer.write(Window(0, 0, height, width), image)
    palette = [(n, n, n) for n in range(len(STYLES["target"].classes))]
    predict_map(model, palette, folder / "in.tif", folder / "map.tif", tile=TILE, overlap=OVERLAP)
    with RasterReader(folder / "map.tif") as reader:
        return reader.read(Window(0, 0, height, width))[..., 0]


@pytest.mark.parametrize("shift", [13, 37])
def test_a_shifted_grid_gives_the_same_classes(trained, tmp_path, shift):
    """Without its first rows and columns a scene has the same map, 99.9 % of the pixels away from the border.

    At the default overlap, a quarter, it is 99.87 %; what differs are near ties. Deep networks: docs/gis.md.
    """
    model, image = trained
    whole = map_of(model, image, tmp_path)[shift:, shift:]
    moved = map_of(model, np.ascontiguousarray(image[shift:, shift:]), tmp_path)
    inner = slice(TILE, SIDE - shift - TILE)
    same = whole[inner, inner] == moved[inner, inner]
    assert len(np.unique(whole)) > 2
    assert same.mean() >= 0.999


class SeesAll(nn.Module):
    """A network whose answer at each pixel depends on all pixels of its window, and on where in it the pixel lies."""

    def forward(self, images):
        """Turn (B, 3, H, W) into logits of 3 classes."""
        height, width = images.shape[2:]
        ramp = torch.linspace(0, 1, height)[:, None] * torch.linspace(1, 0, width)
        return 9 * (images - images.mean(dim=(2, 3), keepdim=True)) + ramp * images.std(
            dim=(2, 3), keepdim=True
        )


def placed_map(image, folder, transform):
    """Map a window-by-window raster with this transform, a window at a time; return both bands."""
    height, width = image.shape[:2]
    with RasterWriter(folder / "in.tif", height, width, 3, "uint8", transform=transform) as writer:
        writer.write(Window(0, 0, height, width), image)
    palette = [(n, n, n) for n in range(3)]
    predict_map(SeesAll(), palette, folder / "in.tif", folder / "map.tif", tile=48, overlap=12, batch=1)
    with RasterReader(folder / "map.tif") as reader:
        return reader.read(Window(0, 0, height, width))


@pytest.mark.usefixtures("one_thread")  # bits are compared
@pytest.mark.parametrize(("row", "col"), [(13, 37), (1, 0), (36, 72), (100, 55)])
def test_a_crop_of_a_placed_scene_has_the_map_of_the_scene(tmp_path, row, col):
    """Whatever the network sees: the same bytes, a window away from the edges of the crop; without a place others."""
    image = render("target", SIDE, SIDE, 5).image
    place = (0.1, 0.0, 500000.0, 0.0, -0.1, 5600000.0)
    moved = (0.1, 0.0, 500000.0 + 0.1 * col, 0.0, -0.1, 5600000.0 - 0.1 * row)
    crop = np.ascontiguousarray(image[row:280, col:290])
    whole = placed_map(image, tmp_path, place)[row:280, col:290]
    inner = (slice(48, -48), slice(48, -48))
    assert whole[inner].size
    np.testing.assert_array_equal(placed_map(crop, tmp_path, moved)[inner], whole[inner])
    assert (placed_map(crop, tmp_path, None)[inner] != whole[inner]).any()


def test_what_reaches_past_the_overlap_shows(trained, tmp_path, monkeypatch):
    """The bound is one of the blend: without it, windows side by side, the same network misses it."""
    model, image = trained
    monkeypatch.setattr(f"{__name__}.OVERLAP", 0)
    whole = map_of(model, image, tmp_path)[37:, 37:]
    moved = map_of(model, np.ascontiguousarray(image[37:, 37:]), tmp_path)
    inner = slice(TILE, SIDE - 37 - TILE)
    assert (whole[inner, inner] == moved[inner, inner]).mean() < 0.999
