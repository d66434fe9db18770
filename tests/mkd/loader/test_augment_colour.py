"""Colour views against a pixel loop, how often each change comes, and the CutMix box."""

import colorsys
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mkd.loader.augment import cutmix, generators, strong_colour, weak_colour

LUMA = (0.2989, 0.587, 0.114)  # as torchvision has them


def draws_of(count, seed=0):
    return generators(seed, 1, [(0, n) for n in range(count)])


def pictures(count, size=6, seed=0):
    return torch.tensor(np.random.default_rng(seed).random((count, 3, size, size)), dtype=torch.float32)


def grey_of(pixel):
    return sum(w * v for w, v in zip(LUMA, pixel, strict=True))


def each_pixel(image, change):
    """Apply a function of one (r,g,b) to every pixel of (3,H,W), and clip to [0,1]."""
    out = np.empty_like(image)
    for i, j in np.ndindex(image.shape[1:]):
        out[:, i, j] = np.clip(change(image[:, i, j]), 0, 1)
    return out


def slow_jitter(x, brightness, contrast, saturation, hue):
    """Brightness, contrast about the mean grey, saturation about the own grey, hue as a turn in HSV."""
    x = each_pixel(x, lambda p: p * brightness)
    mean = np.mean([grey_of(x[:, i, j]) for i, j in np.ndindex(x.shape[1:])])
    x = each_pixel(x, lambda p: mean + (p - mean) * contrast)
    x = each_pixel(x, lambda p: grey_of(p) + (p - grey_of(p)) * saturation)

    def turn(p):
        h, s, v = colorsys.rgb_to_hsv(*p)
        return np.array(colorsys.hsv_to_rgb((h + hue) % 1, s, v))

    return each_pixel(x, turn)


def slow_blur(x, sigma):
    """A 9 x 9 Gaussian, mirrored at the edge, summed pixel by pixel."""
    reach = range(-4, 5)
    weights = {(a, b): math.exp(-(a * a + b * b) / (2 * sigma**2)) for a in reach for b in reach}
    padded, out = np.pad(x, ((0, 0), (4, 4), (4, 4)), mode="reflect"), np.zeros_like(x)
    for i, j in np.ndindex(x.shape[1:]):
        for (a, b), w in weights.items():
            out[:, i, j] += w / sum(weights.values()) * padded[:, i + 4 + a, j + 4 + b]
    return out


def slow_strong(x, g):
    """The strong view of one image (3,H,W), its draws in the order of the formula."""
    amounts = [g.uniform(0.5, 1.5), g.uniform(0.5, 1.5), g.uniform(0.5, 1.5), g.uniform(-0.25, 0.25)]
    if g.random() < 0.8:
        x = slow_jitter(x, *amounts)
    if g.random() < 0.2:
        x = each_pixel(x, lambda p: np.full(3, grey_of(p)))
    sigma = g.uniform(0.1, 2.0)
    return slow_blur(x, sigma) if g.random() < 0.5 else x


def test_strong_view_equals_the_pixel_loop():
    """Jitter (.5,.5,.5,.25) p .8, grey p .2, blur p .5 in this order, each by its own definition."""
    images = pictures(16)
    views = strong_colour(images, draws_of(16))
    for n, g in enumerate(draws_of(16)):
        np.testing.assert_allclose(
            views[n], slow_strong(images[n].double().numpy(), g), atol=2e-5, err_msg=f"image {n}"
        )


def test_a_strong_view_does_not_depend_on_its_batch():
    """A sample alone and within a batch get the same view to the bit, whichever rank holds it."""
    images = pictures(8, size=16)
    whole = strong_colour(images, draws_of(8))
    for n in range(8):
        assert torch.equal(strong_colour(images[n : n + 1], draws_of(8)[n : n + 1])[0], whole[n])


def test_strong_changes_come_as_often_as_they_should():
    """Over many images 8 % stay as they are (no jitter, no grey, no blur), and 20 % are grey."""
    images = pictures(1500, size=5)
    views = strong_colour(images, draws_of(1500))
    same = (views == images).flatten(1).all(dim=1).float().mean()
    grey = ((views - views.mean(dim=1, keepdim=True)).abs().flatten(1).amax(dim=1) < 1e-4).float().mean()
    assert same.item() == pytest.approx(0.2 * 0.8 * 0.5, abs=0.03)
    assert grey.item() == pytest.approx(0.2, abs=0.04)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.sampled_from(["noise", "black", "white", "pure"]))
def test_strong_view_stays_a_picture(seed, size, kind):
    """Values stay in [0,1] (to float32's rounding), for any content and any size down to one pixel."""
    images = {
        "noise": pictures(3, size, seed),
        "black": torch.zeros(3, 3, size, size),
        "white": torch.ones(3, 3, size, size),
        "pure": torch.eye(3)[:, :, None, None].expand(3, 3, size, size),
    }[kind]
    views = strong_colour(images, draws_of(3, seed))
    assert views.shape == images.shape
    assert views.min() >= -1e-6
    assert views.max() <= 1 + 1e-6


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1, width=32))
def test_grey_stays_grey(seed, value):
    """Saturation, hue and grey leave a grey image grey: only its brightness may change."""
    views = strong_colour(torch.full((2, 3, 5, 5), value), draws_of(2, seed))
    assert (views - views[:, :1, :1, :1]).abs().max() < 1e-5


def test_weak_view_is_one_brightness_factor():
    """Each weak view is its image times one factor in [0.9, 1.1], rounded and clipped to a byte."""
    images = (pictures(40) * 255).to(torch.uint8)
    views = weak_colour(images, draws_of(40))
    factors = [0.9 + 0.2 * g.random() for g in draws_of(40)]
    for image, view, factor in zip(images.double().numpy(), views.numpy(), factors, strict=True):
        expected = np.clip(image * factor, 0, 255)
        assert np.abs(view - expected).max() <= 0.5 + 1e-3
    assert views.dtype == torch.uint8
    assert min(factors) < 0.92
    assert max(factors) > 1.08


def test_weak_view_without_strength_is_the_image():
    """Strength 0 changes nothing; white does not wrap round to black."""
    images = (pictures(4) * 255).to(torch.uint8)
    assert torch.equal(weak_colour(images, draws_of(4), strength=0.0), images)
    white = weak_colour(torch.full((30, 3, 2, 2), 255, dtype=torch.uint8), draws_of(30))
    assert white.min() >= 229


def numbered(count, size):
    """Images and labels that are everywhere the number of their sample."""
    labels = torch.arange(count, dtype=torch.uint8)[:, None, None].expand(count, size, size)
    return labels[:, None].expand(-1, 3, -1, -1).float(), labels


def mixed_with_next(images, labels, draws, probability=1.0):
    """Let each sample get its box from the next one of the batch."""
    return cutmix(images, labels, images.roll(-1, 0), labels.roll(-1, 0), draws, probability)


def test_cutmix_pastes_one_box_of_the_next_sample():
    """Inside one rectangle of 2 to 40 % of the area a sample is the next one, image and label alike."""
    count, size = 60, 40
    images, labels = numbered(count, size)
    mixed, ids = mixed_with_next(images, labels, draws_of(count))
    shares = []
    for n in range(count):
        inside = ids[n] == (n + 1) % count
        rows, columns = inside.any(dim=1).nonzero(), inside.any(dim=0).nonzero()
        height, width = (int(v.max() - v.min()) + 1 for v in (rows, columns))
        assert inside.sum() == height * width, f"sample {n}: the pasted part is no rectangle"
        assert (ids[n][~inside] == n).all()
        assert torch.equal(mixed[n], ids[n].float().expand(3, -1, -1)), f"sample {n}: image and label differ"
        assert 0.25 <= height / width <= 4
        shares.append(height * width / size**2)
    assert 0.01 < min(shares) < 0.1
    assert 0.3 < max(shares) <= 0.42


def test_cutmix_boxes_reach_every_corner():
    """Boxes lie anywhere: over many samples each pixel, the corners too, is pasted at least once."""
    images, labels = numbered(200, 12)
    _, ids = mixed_with_next(images, labels, draws_of(200))
    assert (ids != labels).any(dim=0).all()


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_cutmix_comes_as_often_as_it_should(probability):
    """The share of samples with a box is the probability."""
    images, labels = numbered(200, 16)
    _, ids = mixed_with_next(images, labels, draws_of(200), probability)
    share = (ids != labels).flatten(1).any(dim=1).float().mean().item()
    assert share == pytest.approx(probability, abs=0.1 if probability == 0.5 else 0)


def test_cutmix_carries_dropped_pixels_along():
    """Where the next sample's pseudo-label was dropped, the pasted pixel is dropped too."""
    images, labels = pictures(2, size=16), torch.zeros(2, 16, 16, dtype=torch.uint8)
    labels[1] = 255
    mixed, ids = mixed_with_next(images, labels, draws_of(2))
    pasted = (mixed[0] != images[0]).all(dim=0)
    assert pasted.any()
    assert torch.equal(ids[0] == 255, pasted)


def test_cutmix_of_a_single_sample_is_itself():
    """In a batch of one the next sample is the sample: nothing changes."""
    images, labels = pictures(1), torch.ones(1, 6, 6, dtype=torch.uint8)
    mixed, ids = mixed_with_next(images, labels, draws_of(1))
    assert torch.equal(mixed, images)
    assert torch.equal(ids, labels)


def test_cutmix_of_a_part_is_part_of_the_whole():
    """Samples of a batch that is cut in two, each with its next one given, come out as in the whole batch."""
    images, labels = pictures(4, size=16), numbered(4, 16)[1]
    whole = mixed_with_next(images, labels, draws_of(4))
    for part in (slice(0, 2), slice(2, 4)):
        others, other_labels = images.roll(-1, 0)[part], labels.roll(-1, 0)[part]
        mixed = cutmix(images[part], labels[part], others, other_labels, draws_of(4)[part], 1.0)
        assert torch.equal(mixed[0], whole[0][part])
        assert torch.equal(mixed[1], whole[1][part])
