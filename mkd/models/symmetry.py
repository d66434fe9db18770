"""Test-time augmentation by the symmetries of a square: the mean of the probabilities of flipped and turned images."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Symmetry(NamedTuple):
    """A quarter turn taken `turns` times, counter-clockwise, after a flip from left to right where `mirrored`."""

    turns: int
    mirrored: bool

    def apply(self, images: Tensor) -> Tensor:
        """Turn images (B,C,H,W); of odd turns H and W change places."""
        flipped = images.flip(3) if self.mirrored else images
        return torch.rot90(flipped, self.turns, (2, 3)) if self.turns else flipped

    def undo(self, images: Tensor) -> Tensor:
        """Turn images back: `undo(apply(x))` is x."""
        back = torch.rot90(images, -self.turns, (2, 3)) if self.turns else images
        return back.flip(3) if self.mirrored else back


_FLIPS = (Symmetry(0, False), Symmetry(0, True), Symmetry(2, True), Symmetry(2, False))  # none, h, v, hv
_QUARTER_TURNS = (Symmetry(1, False), Symmetry(3, False), Symmetry(1, True), Symmetry(3, True))
# What tta= may be, and the views of an image that it averages.
SYMMETRIES: dict[str, tuple[Symmetry, ...]] = {
    "none": _FLIPS[:1],
    "flips": _FLIPS,
    "d4": (*_FLIPS, *_QUARTER_TURNS),
}


def symmetries(tta: str) -> tuple[Symmetry, ...]:
    """Return the views of an image that a tta averages.

    Raises:
        ValueError: a tta that is not known.
    """
    if tta not in SYMMETRIES:
        raise ValueError(f"tta is {tta!r}: give one of {', '.join(SYMMETRIES)}")
    return SYMMETRIES[tta]


def mean_softmax(model: Callable[[Tensor], Tensor], images: Tensor, tta: str = "none") -> Tensor:
    """Return the mean over symmetries g of the softmax of what the model gives for g(images), turned back.

    ::

        p = 1 / |G| sum_{g in G} g^-1 softmax(model(g images))

    G is the identity alone (none), the identity, both flips and the half turn (flips), or all eight symmetries of the
    square, the dihedral group D4 (d4). There is one forward pass for each.

    Args:
        model: images float (B,bands,H,W) to logits (B,C,H,W), for any H and W.
        images: float (B,bands,H,W).
        tta: a key of `SYMMETRIES`.

    Returns:
        float32 (B,C,H,W), a distribution over C.

    Source: the mean over a group's elements, which makes any model equivariant to it: for h in G the terms of h(images)
    are those of images in another order.
    """
    views = symmetries(tta)
    total = views[0].undo(model(views[0].apply(images)).float().softmax(dim=1))
    for view in views[1:]:
        total = total + view.undo(model(view.apply(images)).float().softmax(dim=1))
    return total / len(views) if len(views) > 1 else total
