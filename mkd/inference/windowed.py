"""A network's probabilities for tiles of any size, in windows of the size that it was trained on."""

import torch
from torch import Tensor, nn

from mkd.geo.blend import window_weight
from mkd.geo.grid import covering_windows
from mkd.models.symmetry import mean_softmax

UNKNOWN_CROP = 512  # pixels: the window of models that are older than the crop in their card


def default_overlap(window: int) -> int:
    """Return the least overlap of neighbouring windows, pixels: a quarter of their side."""
    return window // 4


def probabilities(model: nn.Module, images: Tensor, window: int | None, tta: str = "none") -> Tensor:
    """Return softmax(model), blended over overlapping windows where the images are larger than one.

    ::

        p(c, y, x) = sum_k w_k(y, x) softmax(model(window k))(c, y, x) / sum_k w_k(y, x)

    A network that was trained on crops has learned with their padding, their pooling and the taps that reach features
    in them; on a larger image each of these is another. The weights w are those of the maps,
    `mkd.geo.blend.window_weight`.

    Args:
        model: images float (B,3,H,W) in [0,1] -> logits (B,C,H,W).
        images: float (B,3,H,W) in [0,1].
        window: side of a window, pixels; None takes the images whole.
        tta: views of each window whose probabilities are averaged, see `mkd.models.symmetry`.

    Returns:
        float32 (B,C,H,W).
    """
    height, width = images.shape[2:]
    if window is None or max(height, width) <= window:
        return mean_softmax(model, images, tta)
    # All windows of an image have one size, and so one weight.
    weight = torch.tensor(window_weight(min(window, height), min(window, width)), device=images.device)
    blended: Tensor | None = None
    weights = torch.zeros(height, width, device=images.device)
    for row, col, tall, wide in covering_windows(height, width, window, default_overlap(window)):
        rows, cols = slice(row, row + tall), slice(col, col + wide)
        found = mean_softmax(model, images[:, :, rows, cols], tta)
        if blended is None:
            blended = torch.zeros(*found.shape[:2], height, width, device=images.device)
        blended[:, :, rows, cols] += found * weight
        weights[rows, cols] += weight
    assert blended is not None
    return blended / weights
