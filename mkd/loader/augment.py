"""Weak and strong views on the training device, one generator a sample; colours by torchvision."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from mkd.labels import IGNORE
from mkd.loader.batch import upload

# Legend: B batch, H W pixels of the tiles, S crop size.


def generators(seed: int, stream: int, ids: Sequence[tuple[int, int]]) -> list[np.random.Generator]:
    """Return one generator a sample, seeded by (seed, stream, epoch, sample): the same on any rank."""
    return [np.random.default_rng([seed, stream, epoch, sample]) for epoch, sample in ids]


@dataclass(frozen=True)
class Geometry:
    """Random scale, crop, flips and turns.

    Attributes:
        crop: side S of the result in pixels.
        scale: range of the scale factor.
        aerial: also vertical flips and 90-degree turns.
    """

    crop: int
    scale: tuple[float, float]
    aerial: bool

    def __call__(
        self, images: Tensor, labels: Tensor, draws: Sequence[np.random.Generator]
    ) -> tuple[Tensor, Tensor]:
        """Return images (B,bands,S,S) (bilinear, mirrored beyond the edge) and labels (B,S,S) (nearest, 255 there).

        Args:
            images: uint8 (B,3,H,W), or float32 (B,bands,H,W) with NaN where a pixel is missing.
            labels: uint8 (B,H,W).
            draws: one generator a sample.
        """
        height, width = images.shape[-2:]
        theta = upload(torch.stack([self._theta(height, width, g) for g in draws]), images.device)
        grid = F.affine_grid(theta, [len(draws), 1, self.crop, self.crop], align_corners=False)
        # +1 turns the zeros that grid_sample puts outside into "no label".
        moved = F.grid_sample(
            labels[:, None].float() + 1, grid, mode="nearest", padding_mode="zeros", align_corners=False
        )
        moved = torch.where(moved == 0, torch.full_like(moved, IGNORE), moved - 1)
        if images.dtype == torch.uint8:
            return _sample(images.float(), grid).round().to(torch.uint8), moved[:, 0].to(torch.uint8)
        return _sample_around_holes(images, grid), moved[:, 0].to(torch.uint8)

    def _theta(self, height: int, width: int, g: np.random.Generator) -> Tensor:
        """Return the 2x3 matrix from crop to tile coordinates, both in [-1,1]."""
        scale = math.exp(g.uniform(math.log(self.scale[0]), math.log(self.scale[1])))
        # Whole-pixel offsets, so that a crop at scale 1 copies pixels exactly.
        extent = self.crop / scale
        span_x, span_y = extent / width, extent / height
        offset_x, offset_y = _offset(width, extent, g.random()), _offset(height, extent, g.random())
        flip_x = -1.0 if g.random() < 0.5 else 1.0
        flip_y = -1.0 if self.aerial and g.random() < 0.5 else 1.0
        if self.aerial and g.random() < 0.5:
            return torch.tensor([[0.0, span_x * flip_x, offset_x], [span_y * flip_y, 0.0, offset_y]])
        return torch.tensor([[span_x * flip_x, 0.0, offset_x], [0.0, span_y * flip_y, offset_y]])


def _sample(images: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    return F.grid_sample(images, grid, mode=mode, padding_mode="reflection", align_corners=False)


def _sample_around_holes(images: Tensor, grid: Tensor) -> Tensor:
    """Return images as `_sample` does, of the pixels with data alone; NaN where the nearest pixel is missing."""
    known = (~images.isnan()).float()
    weights = _sample(known, grid)
    found = _sample(images.nan_to_num(0.0), grid) / weights.clamp(min=1e-3)
    return found.masked_fill(_sample(known, grid, "nearest") < 0.5, torch.nan)


def _offset(size: int, extent: float, u: float) -> float:
    """Return the centre, in [-1,1], of a crop of ``extent`` pixels: uniform where it fits, else about the middle."""
    slack = size - extent
    start = math.floor(u * (math.floor(slack) + 1)) if slack > 0 else math.floor(slack / 2)
    return (2 * start + extent) / size - 1


def weak_colour(images: Tensor, draws: Sequence[np.random.Generator], strength: float = 0.1) -> Tensor:
    """Return images with brightness scaled by a factor in [1 - strength, 1 + strength].

    Args:
        images: uint8 (B,3,S,S), or float32 (B,bands,S,S).
        draws: one generator a sample.
        strength: see above.
    """
    factor = _column([g.uniform(1 - strength, 1 + strength) for g in draws], images)
    if images.dtype != torch.uint8:
        return images * factor
    return (images.float() * factor).round().clamp(0, 255).to(torch.uint8)


def strong_colour(images: Tensor, draws: Sequence[np.random.Generator]) -> Tensor:
    """Return the strong view: jitter (.5,.5,.5,.25) p .8, grey p .2, Gaussian blur p .5.

    Samples go one by one, each by its own generator, so that a view does not depend on its batch.

    Args:
        images: float (B,3,S,S) in [0,1].
        draws: one generator a sample.

    Source: the method's strong view; parameters of UniMatch (Yang et al. 2023), the jitter in one fixed order.
    """
    return torch.stack([_strong_view(image, g) for image, g in zip(images, draws, strict=True)])


def _strong_view(image: Tensor, g: np.random.Generator) -> Tensor:
    # All numbers are drawn whatever is used of them: the draws that follow (CutMix) stay the same.
    brightness, contrast, saturation = (g.uniform(0.5, 1.5) for _ in range(3))
    hue = g.uniform(-0.25, 0.25)  # of a full circle in HSV
    if g.random() < 0.8:
        image = tv.adjust_brightness(image, brightness)
        image = tv.adjust_contrast(image, contrast)
        image = tv.adjust_saturation(image, saturation)
        image = tv.adjust_hue(image, hue)
    if g.random() < 0.2:
        image = tv.rgb_to_grayscale(image, num_output_channels=3)
    return _blur(image, g)


def _blur(image: Tensor, g: np.random.Generator) -> Tensor:
    """Return an image blurred, p .5."""
    sigma = g.uniform(0.1, 2.0)  # pixels
    if g.random() < 0.5:
        side = 2 * min(4, *(side - 1 for side in image.shape[1:])) + 1  # the mirrored edge needs pixels
        image = tv.gaussian_blur(image, [side, side], [sigma, sigma])
    return image


def strong_bands(images: Tensor, draws: Sequence[np.random.Generator]) -> Tensor:
    """Return the strong view of any bands: gain and offset of each band p .8, Gaussian blur p .5.

    Gains are in [0.5,1.5], offsets in [-0.1,0.1] of the range from low to high. Hue and grey mean nothing there.

    Args:
        images: float (B,bands,S,S), about [0,1].
        draws: one generator a sample.
    """
    return torch.stack([_strong_bands(image, g) for image, g in zip(images, draws, strict=True)])


def _strong_bands(image: Tensor, g: np.random.Generator) -> Tensor:
    # All numbers are drawn whatever is used of them: the draws that follow (CutMix) stay the same.
    gain, offset = g.uniform(0.5, 1.5, len(image)), g.uniform(-0.1, 0.1, len(image))
    if g.random() < 0.8:
        of_band = [upload(torch.tensor(n, dtype=image.dtype), image.device) for n in (gain, offset)]
        image = image * of_band[0][:, None, None] + of_band[1][:, None, None]
    return _blur(image, g)


StrongView = Callable[[Tensor, Sequence[np.random.Generator]], Tensor]


def strong_view(plain: bool, holes: bool) -> StrongView:
    """Return the strong view of a run.

    Args:
        plain: its images are 3 bands of uint8, red, green and blue.
        holes: pixels may be missing.
    """
    view = strong_colour if plain else strong_bands
    return partial(_around_holes, view) if holes else view


def _around_holes(view: StrongView, images: Tensor, draws: Sequence[np.random.Generator]) -> Tensor:
    """Make strong views of images (B,bands,S,S) with NaN for missing pixels, which stay NaN.

    The view sees their band's mean there, so that contrast is that of the pixels with data.
    """
    mean = images.nanmean(dim=(2, 3), keepdim=True).nan_to_num(0.0)
    missing = images.isnan()
    return view(torch.where(missing, mean, images), draws).masked_fill(missing, torch.nan)


def cutmix(
    images: Tensor,
    labels: Tensor,
    others: Tensor,
    other_labels: Tensor,
    draws: Sequence[np.random.Generator],
    probability: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Paste a box of another sample into each, images and pseudo-labels alike.

    Args:
        images: float (B,3,S,S).
        labels: uint8 (B,S,S).
        others: float (B,3,S,S), what is pasted into each: the next sample of the global batch.
        other_labels: uint8 (B,S,S), theirs.
        draws: one generator a sample.
        probability: share of samples that get a box.

    Source: Yun et al. 2019; box sizes of UniMatch (2 to 40 % of the area, aspect 0.3 to 1/0.3).
    """
    size = images.shape[-1]
    boxes = torch.zeros(len(draws), size, size, dtype=torch.bool)
    for n, g in enumerate(draws):
        use, area, log_aspect, u, v = (
            g.random(),
            g.uniform(0.02, 0.4),
            g.uniform(-1, 1),
            g.random(),
            g.random(),
        )
        aspect = 0.3**log_aspect
        w, h = (min(size, round(size * math.sqrt(area * r))) for r in (aspect, 1 / aspect))
        if use < probability:
            top, left = int(u * (size - h + 1)), int(v * (size - w + 1))
            boxes[n, top : top + h, left : left + w] = True
    boxes = upload(boxes, images.device)
    return torch.where(boxes[:, None], others, images), torch.where(boxes, other_labels, labels)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return upload(torch.tensor(values, dtype=torch.float32), like.device)[:, None, None, None]
