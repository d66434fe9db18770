"""Dropout whose masks belong to the tile: the same on any number of ranks and after any resume."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Legend: N samples of a forward pass, n labelled tiles of it, C channels, H W pixels.


class SampleDropout(nn.Dropout):
    """Dropout in which each sample's mask is drawn by a generator of its own.

    ::

        y = x * m / (1 - p),   m ~ Bernoulli(1 - p), seeded by (seed, step, layer, place in the global batch)

    In eval mode it is the identity. Before :func:`seed_dropout` was called it is torch's own dropout.

    Args:
        p: chance of an element to become 0, in [0,1).
    """

    # int64 on the CPU: seed, step, layer, size of the global batch, slots of the labelled tiles.
    place: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return x, float (N,...), with some of it 0; N is a multiple of the number of slots."""
        if not self.training or self.p == 0 or self.place is None:
            return F.dropout(x, self.p, self.training)
        mask: Tensor = sample_mask(x.detach(), 1 - self.p, self.place)
        return x * mask / (1 - self.p)


class FeatureDropout(nn.Module):
    """Drops whole channels of a backbone's maps, of the last samples of a forward pass alone.

    ::

        y_k = x_k * m_k / (1 - p),   m_k ~ Bernoulli(1 - p) for each sample and channel of map k

    It does nothing outside :func:`dropped_features`, nor in eval mode.

    Source: the feature perturbation of Yang et al. 2023, "Revisiting Weak-to-Strong Consistency in Semi-Supervised
    Semantic Segmentation" (UniMatch): Dropout2d(0.5) on the maps of the weak view.
    """

    place: Tensor | None = None  # as in SampleDropout, with the layer of the first map
    p: float = 0.0
    last: int = 0

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return maps float (N,C_k,H_k,W_k), with channels of the last samples 0."""
        if not self.training or self.last == 0:
            return list(maps)
        return [self._drop(x, level) for level, x in enumerate(maps)]

    def _drop(self, x: Tensor, level: int) -> Tensor:
        like = x.detach()[:, :, :1, :1]
        if self.place is None:
            mask = torch.rand_like(like) < 1 - self.p
        else:
            place = self.place.clone()
            place[2] += level
            mask = sample_mask(like, 1 - self.p, place)
        factor = (mask / (1 - self.p)).to(x.dtype)
        factor[: len(x) - self.last] = 1
        return x * factor


@contextlib.contextmanager
def dropped_features(model: nn.Module, p: float, last: int) -> Iterator[None]:
    """Let the `FeatureDropout` of a network act within the block.

    Args:
        model: a network that has one, see `mkd.models.segmentation.SegmentationNetwork`.
        p: chance of a channel to become 0, in [0,1); 0 does nothing.
        last: samples at the end of each forward pass that lose channels.
    """
    if p == 0:
        yield
        return
    layers = [module for module in model.modules() if isinstance(module, FeatureDropout)]
    assert layers, "this network cannot drop features"
    for module in layers:
        module.p, module.last = p, last
    try:
        yield
    finally:
        for module in layers:
            module.last = 0


def seed_dropout(model: nn.Module, seed: int, step: int, slots: Sequence[int], batch: int) -> None:
    """Fix the masks of a forward pass, for all dropout layers of a network.

    With n slots, sample i of a forward pass of k n samples has slot ``(i // n) * batch + slots[i % n]``: the
    unlabelled tiles that follow the labelled ones have slots of their own.

    Args:
        model: the network.
        seed: of the run, >= 0.
        step: of the run, >= 0.
        slots: places of the labelled tiles of this forward pass in the global batch.
        batch: labelled tiles of the global batch.
    """
    layers = [module for module in model.modules() if isinstance(module, (SampleDropout, FeatureDropout))]
    layers.sort(key=lambda layer: isinstance(layer, FeatureDropout))  # last: others' masks are as without it
    for number, layer in enumerate(layers):
        layer.place = torch.tensor([seed, step, number, batch, *slots])


# An operator of its own, because a compiler cannot look into generators; it sees one opaque call.
@torch.library.custom_op("mkd::sample_mask", mutates_args=())
def sample_mask(like: Tensor, keep: float, place: Tensor) -> Tensor:
    """Return a mask, bool (N,...), that is true with chance ``keep``; see :class:`SampleDropout`."""
    seed, step, layer, batch, *slots = place.tolist()
    assert len(like) % len(slots) == 0
    mask = _empty_mask(like)
    generator = torch.Generator(like.device)
    for i, part in enumerate(mask.movedim(1, -1)):
        slot = i // len(slots) * batch + slots[i % len(slots)]
        entropy = np.random.SeedSequence([seed, step, layer, slot])
        generator.manual_seed(int(entropy.generate_state(1, np.uint64)[0]))
        part.bernoulli_(keep, generator=generator)
    return mask


@sample_mask.register_fake
def _(like: Tensor, keep: float, place: Tensor) -> Tensor:
    return _empty_mask(like)


def _empty_mask(like: Tensor) -> Tensor:
    """Return memory for a mask, channels last whatever the layout of ``like``: masks depend on its shape alone."""
    count, channels, *sides = like.shape
    return torch.empty(count, *sides, channels, dtype=torch.bool, device=like.device).movedim(-1, 1)
