"""Weak and strong views on the training device, one generator a sample; colours by torchvision."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from mkd.labels import IGNORE

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
        """Return uint8 images (B,3,S,S) (bilinear, mirrored beyond the edge) and labels (B,S,S) (nearest, 255 there).

        Args:
            images: uint8 (B,3,H,W).
            labels: uint8 (B,H,W).
            draws: one generator a sample.
        """
        height, width = images.shape[-2:]
        theta = torch.stack([self._theta(height, width, g) for g in draws]).to(images.device)
        grid = F.affine_grid(theta, [len(draws), 1, self.crop, self.crop], align_corners=False)
        warped = F.grid_sample(
            images.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False
        )
        # +1 turns the zeros that grid_sample puts outside into "no label".
        moved = F.grid_sample(
            labels[:, None].float() + 1, grid, mode="nearest", padding_mode="zeros", align_corners=False
        )
        moved = torch.where(moved == 0, torch.full_like(moved, IGNORE), moved - 1)
        return warped.round().to(torch.uint8), moved[:, 0].to(torch.uint8)

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


def _offset(size: int, extent: float, u: float) -> float:
    """Return the centre, in [-1,1], of a crop of ``extent`` pixels: uniform where it fits, else about the middle."""
    slack = size - extent
    start = math.floor(u * (math.floor(slack) + 1)) if slack > 0 else math.floor(slack / 2)
    return (2 * start + extent) / size - 1


def weak_colour(images: Tensor, draws: Sequence[np.random.Generator], strength: float = 0.1) -> Tensor:
    """Return uint8 images (B,3,S,S) with brightness scaled by a factor in [1 - strength, 1 + strength]."""
    factor = _column([g.uniform(1 - strength, 1 + strength) for g in draws], images)
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
    sigma = g.uniform(0.1, 2.0)  # pixels
    if g.random() < 0.5:
        side = 2 * min(4, *(side - 1 for side in image.shape[1:])) + 1  # the mirrored edge needs pixels
        image = tv.gaussian_blur(image, [side, side], [sigma, sigma])
    return image


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
    boxes = boxes.to(images.device)
    return torch.where(boxes[:, None], others, images), torch.where(boxes, other_labels, labels)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None, None, None]
