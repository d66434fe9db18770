"""How rasters are cut into tiles: the options as asked for, and with every default filled in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shards.inputs.scenes.orthomosaics import Orthomosaic

EXTENSIONS = {"png": "png", "jpeg": "jpg", "tif": "tif"}
QUALITY = 90


@dataclass(frozen=True)
class TilingOptions:
    """What a user asks for; None leaves the choice to the rasters.

    Attributes:
        size: edge of a tile, pixels.
        stride: distance between tiles, pixels; None = `size`.
        min_valid: tiles with a smaller share of pixels with data are left out, 0..1.
        bands: bands to keep, counted from 1, at least three; None = all but alpha.
        format: "png", "jpeg" or "tif" for the images; None = png, and tif for 16 bits or more than 3 bands.
        quality: of JPEG, 1..100; None = 90.
        trust_vrt: let rasters name any other files, on the network too.
    """

    size: int = 512
    stride: int | None = None
    min_valid: float = 0.5
    bands: Sequence[int] | None = None
    format: str | None = None
    quality: int | None = None
    trust_vrt: bool = False


@dataclass(frozen=True)
class TileSpec:
    """How rasters are cut; these names and values identify a data set and stand in its index.

    Attributes:
        size: edge of a tile, pixels.
        stride: distance between tiles, pixels.
        min_valid: tiles with a smaller share of pixels with data are left out, 0..1.
        format: "png", "jpeg" or "tif".
        quality: of JPEG, 1..100.
    """

    size: int
    stride: int
    min_valid: float
    format: str
    quality: int


def resolve_tiling(asked: TilingOptions, scene: Orthomosaic) -> TileSpec:
    """Check the options and fill in what was not given.

    Args:
        asked: the user's options.
        scene: any of the rasters; all have as many bands of the same type.

    Raises:
        ValueError: a size, share, format or quality that cannot be.
    """
    # Geometry.
    stride = asked.size if asked.stride is None else asked.stride
    for option, number in (("size", asked.size), ("stride", stride)):
        if number < 1:
            raise ValueError(f"{option} is {number}: it must be at least 1 pixel")
    if not 0 <= asked.min_valid <= 1:
        raise ValueError(
            f"min_valid {asked.min_valid} is not in 0..1: it is the least share of pixels with data"
        )
    # Format: PNG and JPEG hold three bands of 8 bits only.
    count, dtype = scene.choice.kind
    plain = (count, dtype) == (3, "uint8")
    chosen = asked.format or ("png" if plain else "tif")
    if chosen not in EXTENSIONS:
        raise ValueError(f"--format {chosen!r}: allowed are {', '.join(EXTENSIONS)}")
    if chosen != "tif" and not plain:
        raise ValueError(
            f"--format {chosen} holds 3 bands of uint8, but {scene.image} gives {count} of "
            f"{dtype}: use --format tif, or choose 3 --bands, or convert it to 8 bits"
        )
    # Quality.
    quality = asked.quality
    if quality is not None and chosen != "jpeg":
        raise ValueError(
            f"--quality {quality} has no meaning with --format {chosen}: leave it out, or use jpeg"
        )
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"--quality {quality}: give a whole number from 1 to 100")
    return TileSpec(asked.size, stride, asked.min_valid, chosen, quality or QUALITY)
