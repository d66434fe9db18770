"""Which bands a run's network takes, and by which numbers they are normalised."""

from typing import Any

import torch
from torch import Tensor

from mkd.dataset.index import DatasetIndex
from mkd.models.architecture import Architecture
from mkd.pixel_scale import PixelScale


def band_fields(index: DatasetIndex, source: Architecture | None, key: str) -> dict[str, Any]:
    """Return `scale`, `mean` and `std` of the network for a data set; nothing for RGB of 8 bits without a source.

    Of a source the numbers stay, so that its filters see what they know: of all bands where bands and type are the
    same, else of the bands that both have, counted from the first, where the type is. The rest is the data set's.

    Args:
        index: of the labelled tiles.
        source: of the model that the run goes on from.
        key: config key of the data set, with its value, for messages.

    Raises:
        ValueError: an index without the statistics that its bands need.
    """
    kind = (index.bands, index.dtype)
    scale = PixelScale(*kind)
    if source is not None and source.scale.kind == kind:
        return {} if scale.plain else {"scale": source.scale, "mean": source.mean, "std": source.std}
    if scale.plain and (source is None or source.scale.dtype != "uint8"):
        return {}
    own = index.statistics
    if own is None and not scale.plain:
        raise ValueError(
            f"{key} has {scale} and no statistics of its bands in its index, which training needs: run "
            "'python -m shards stats' on it, which adds them"
        )
    shared = source is not None and source.scale.dtype == index.dtype
    old: list[tuple[float, ...]] = _numbers(source) if shared and source is not None else [()] * 4
    new: list[tuple[float, ...]] = [()] * 4 if own is None else [own.low, own.high, own.mean, own.std]
    bands = index.bands
    low, high, mean, std = ((a + b[len(a) :])[:bands] for a, b in zip(old, new, strict=True))
    if scale.plain:
        return {"scale": scale, "mean": mean, "std": std}
    return {"scale": PixelScale(*kind, low, high), "mean": mean, "std": std}


def _numbers(source: Architecture) -> list[tuple[float, ...]]:
    scale = source.scale
    low, high = scale.low or (0.0,) * scale.bands, scale.high or (255.0,) * scale.bands
    return [low, high, source.mean, source.std]


def check_kind(key: str, index: DatasetIndex, scale: PixelScale) -> None:
    """Refuse a data set of other bands or another type than the network takes.

    Args:
        key: config key of the data set, with its value.
        index: of the data set.
        scale: of the network.

    Raises:
        ValueError: with both.
    """
    if (index.bands, index.dtype) != scale.kind:
        raise ValueError(
            f"{key} has {index.bands} bands of {index.dtype}, but the network takes {scale}: cut or pack it again with "
            f"--bands, from images of {scale.dtype}, so that it has the network's bands in their order; or give a "
            "model of this data set's bands"
        )


def bands_note(key: str, old: PixelScale, new: PixelScale) -> str:
    """Say how a model of other bands becomes the start of a network."""
    both = min(old.bands, new.bands)
    text = (
        f"{key} takes {old}, this data set has {new}: the filters of the first {both} bands are the model's"
    )
    if new.bands > both:
        text += f", those of the other {new.bands - both} start from their mean"
    return text + ("" if old.dtype == new.dtype else "; the numbers of the normalisation are the data set's")


def other_bands(images: Tensor, own: Architecture, plan: Architecture) -> Tensor:
    """Return images of one network's bands as another's sees them: the same after its normalisation.

    Args:
        images: float32 (B,bands,H,W) in units of ``own.scale``.
        own: of the network whose bands these are.
        plan: of the other one; its further bands are missing, which is 0 after its normalisation.
    """
    both = min(own.scale.bands, plan.scale.bands)

    def numbers(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values[:both], device=images.device)[:, None, None]

    seen = (images[:, :both] - numbers(own.mean)) / numbers(own.std)
    found = seen * numbers(plan.std) + numbers(plan.mean)
    shape = (len(images), plan.scale.bands - both, *images.shape[2:])
    return torch.cat([found, found.new_full(shape, torch.nan)], dim=1)
