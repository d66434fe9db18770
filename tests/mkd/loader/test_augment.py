"""Geometry: crops, flips and turns copy pixels, labels follow their image, and a view is a sample's own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mkd.loader.augment import Geometry, generators, strong_colour, weak_colour

STEP = 17  # grey values between neighbouring columns (red) and rows (green) of a position tile


def position_tile(height, width):
    """A tile that tells positions: label = row * width + column, red = 17 column, green = 17 row."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([STEP * columns, STEP * rows, np.full_like(rows, 100)]).astype(np.uint8)
    return image, (rows * width + columns).astype(np.uint8)


def views(geometry, image, label, count, seed=0):
    """Many views of one tile, as numpy arrays (N,3,S,S) and (N,S,S)."""
    images = torch.as_tensor(image).expand(count, *image.shape)
    labels = torch.as_tensor(label).expand(count, *label.shape)
    moved = geometry(images, labels, generators(seed, 0, [(0, n) for n in range(count)]))
    return moved[0].numpy(), moved[1].numpy()


def orientations(square):
    """The 8 ways to lay a square down: index, array (..., S, S)."""
    for turned in (False, True):
        base = np.swapaxes(square, -1, -2) if turned else square
        for up in (False, True):
            for left in (False, True):
                yield (turned, up, left), base[..., :: -1 if up else 1, :: -1 if left else 1]


def find(label_view, image_view, label, image, crop):
    """Search all offsets and orientations for the slice that a view is: (row, column, orientation)."""
    matches = []
    for row in range(label.shape[0] - crop + 1):
        for column in range(label.shape[1] - crop + 1):
            window = np.s_[..., row : row + crop, column : column + crop]
            slices = zip(orientations(label[window]), orientations(image[window]), strict=True)
            for (how, labels), (_, pixels) in slices:
                if np.array_equal(labels, label_view) and np.array_equal(pixels, image_view):
                    matches.append((row, column, how))
    return matches


@pytest.mark.parametrize(("height", "width", "crop"), [(15, 13, 6), (9, 15, 9), (12, 12, 12), (7, 7, 1)])
def test_at_scale_one_a_view_is_a_slice(height, width, crop):
    """Each view at scale 1 is one window of the tile, turned and flipped, copied without any blur."""
    image, label = position_tile(height, width)
    images, labels = views(Geometry(crop, (1.0, 1.0), aerial=True), image, label, 24)
    for n, (pixels, ids) in enumerate(zip(images, labels, strict=True)):
        assert find(ids, pixels, label, image, crop), f"view {n} is no slice of the tile:\n{ids}"


@pytest.mark.parametrize(("size", "crop"), [(12, 10), (15, 12), (15, 13), (15, 14), (5, 4), (12, 12)])
def test_every_window_and_orientation_comes(size, crop):
    """All offsets from the first row to the last, and all 8 orientations, occur; none is never seen."""
    image, label = position_tile(size, size)
    images, labels = views(Geometry(crop, (1.0, 1.0), aerial=True), image, label, 150)
    found = [find(i, p, label, image, crop)[0] for p, i in zip(images, labels, strict=True)]
    offsets = set(range(size - crop + 1))
    assert {row for row, _, _ in found} == offsets, "row offsets"
    assert {column for _, column, _ in found} == offsets, "column offsets"
    assert len({how for _, _, how in found}) == 8


def test_street_scenes_stay_upright():
    """Without `aerial` a view is only ever flipped left-right, about every second time."""
    image, label = position_tile(8, 8)
    images, labels = views(Geometry(5, (1.0, 1.0), aerial=False), image, label, 200)
    found = [find(i, p, label, image, 5)[0][2] for p, i in zip(images, labels, strict=True)]
    assert set(found) == {(False, False, False), (False, False, True)}
    assert 70 <= found.count((False, False, True)) <= 130


@pytest.mark.parametrize(("size", "crop"), [(8, 12), (6, 24), (9, 12)])
def test_beyond_the_tile_it_is_mirrored_and_unlabelled(size, crop):
    """A crop larger than the tile has the tile inside, mirror images around it, and label 255 there."""
    image, label = position_tile(size, size)
    more = crop - size
    candidates = []
    for before in {more // 2, more - more // 2}:  # one of the two middles when the difference is odd
        around = (before, more - before)
        pixels = np.pad(image, ((0, 0), around, around), mode="symmetric")
        ids = np.pad(label, (around, around), constant_values=255)
        candidates.append((pixels, ids))
    for pixels, ids in zip(*views(Geometry(crop, (1.0, 1.0), True), image, label, 12), strict=True):
        assert (ids != 255).sum() == size * size, (
            f"{(ids != 255).sum()} labelled pixels of {size * size}:\n{ids}"
        )
        assert any(find(ids, pixels, one, picture, crop) for picture, one in candidates), f"no slice:\n{ids}"


@pytest.mark.parametrize(
    ("scale", "crop"), [((0.5, 2.0), 11), ((0.5, 0.5), 7), ((2.0, 2.0), 16), ((0.3, 3.0), 24)]
)
def test_labels_follow_their_image(scale, crop):
    """At any scale, the label of a pixel names the tile pixel nearest to the place its colour comes from."""
    image, label = position_tile(15, 15)
    images, labels = views(Geometry(crop, scale, aerial=True), image, label, 100)
    inside = labels != 255
    assert 0.2 < inside.mean() <= 1
    row, column = labels // 15, labels % 15
    for seen, named in ((images[:, 1] / STEP, row), (images[:, 0] / STEP, column)):
        assert np.abs(seen - named)[inside].max() <= 0.5 + 1 / STEP
    assert (images[:, 2] == 100).all()


def test_scale_is_drawn_from_its_range():
    """Neighbouring pixels lie 1/scale apart: all of 0.5 to 2 occurs, as often below 1 as above."""
    image, label = position_tile(15, 15)
    images, labels = views(Geometry(6, (0.5, 2.0), aerial=False), image, label, 300)
    steps = []
    for pixels, ids in zip(images.astype(int), labels, strict=True):
        row = pixels[0][(ids != 255).all(axis=1)]
        if len(row):
            steps.append(abs(row[0, 4] - row[0, 1]) / 3 / STEP)
    steps = np.array(steps)
    assert 0.48 < steps.min() < 0.55
    assert 1.8 < steps.max() < 2.05
    assert 0.4 < (steps < 1).mean() < 0.6


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12), st.integers(1, 16), st.booleans())
def test_labels_never_get_a_new_value(seed, height, width, crop, aerial):
    """Labels are picked, never mixed: a view holds ids of the tile and 255, and nothing between."""
    rng = np.random.default_rng(seed)
    ids = np.array([0, 3, 200, 254, 255], np.uint8)[rng.integers(0, 5, (2, height, width))]
    images = torch.tensor(rng.integers(0, 256, (2, 3, height, width)), dtype=torch.uint8)
    moved, labels = Geometry(crop, (0.5, 2.0), aerial)(
        images, torch.tensor(ids), generators(seed, 0, [(0, 0), (0, 1)])
    )
    assert (moved.shape, labels.shape) == ((2, 3, crop, crop), (2, crop, crop))
    assert (moved.dtype, labels.dtype) == (torch.uint8, torch.uint8)
    for before, after in zip(ids, labels.numpy(), strict=True):
        assert set(after.ravel().tolist()) <= {*before.ravel().tolist(), 255}


def full_view(images, labels, ids, seed=3):
    """Geometry, weak colour, then strong colour, each sample's draws from its own generator."""
    draws = generators(seed, 1, ids)
    images, labels = Geometry(7, (0.5, 2.0), aerial=True)(images, labels, draws)
    weak = weak_colour(images, draws)
    return labels, weak, strong_colour(weak.float() / 255, draws)


def test_a_view_does_not_depend_on_batch_mates():
    """Alone, or anywhere in a batch of others, a sample gets the same labels, weak view and strong view."""
    rng = np.random.default_rng(0)
    images = torch.tensor(rng.integers(0, 256, (6, 3, 12, 12)), dtype=torch.uint8)
    labels = torch.tensor(rng.integers(0, 5, (6, 12, 12)), dtype=torch.uint8)
    ids = [(0, 4), (0, 9), (1, 4), (2, 0), (2, 1), (7, 7)]
    together = full_view(images, labels, ids)
    backwards = full_view(images.flip(0), labels.flip(0), ids[::-1])
    for n, pair in enumerate(ids):
        alone = full_view(images[n : n + 1], labels[n : n + 1], [pair])
        for other, at in ((alone, 0), (backwards, 5 - n)):
            assert torch.equal(other[0][at], together[0][n]), f"labels of {pair}"
            assert torch.equal(other[1][at], together[1][n]), f"weak view of {pair}"
            torch.testing.assert_close(other[2][at], together[2][n], rtol=0, atol=1e-6)


def test_generators_are_a_samples_own():
    """Seed, stream, epoch and sample each make another generator; the same four make the same one."""
    first = [g.random() for g in generators(1, 0, [(0, 0), (0, 1), (1, 0)])]
    assert len(set(first)) == 3
    assert first[2] == generators(1, 0, [(1, 0)])[0].random()
    assert first[0] != generators(2, 0, [(0, 0)])[0].random()
    assert first[0] != generators(1, 1, [(0, 0)])[0].random()
