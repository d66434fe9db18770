"""TIFF chips: all bands and bits, and what the file says of pixels without data, as `tile` reads orthomosaics."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

from shards.inputs.images.image_member import ImageMember, Valid, pixel_member
from shards.progress import pluralize

if TYPE_CHECKING:
    from mkd.geo.raster import RasterReader

_NAME = "chip.tif"


def open_tiff(data: bytes, max_pixels: int) -> RasterReader:
    """Open a TIFF in memory, which may name no other files.

    Args:
        data: the file.
        max_pixels: greatest number of pixels of a block.

    Raises:
        DamagedRaster: not a TIFF that can be read.
        ValueError: blocks that need too much memory, or a place on Earth beside an orientation that turns it.
    """
    from mkd.geo.raster import RasterReader
    from mkd.geo.raster_safety import RasterLimits

    def opener(asked: str) -> BinaryIO:
        if asked != _NAME:
            raise FileNotFoundError(asked)
        return io.BytesIO(data)

    return RasterReader(_NAME, opener, RasterLimits(max_pixels))


def pack_tiff(
    data: bytes, name: str, bands: Sequence[int] | None, max_pixels: int
) -> tuple[ImageMember, Valid] | None:
    """Make a TIFF a member; None leaves plain 8-bit pictures of 1 to 3 bands, all of it data, to Pillow.

    Args:
        data: the file.
        name: what to call it in an error.
        bands: which are kept, counted from 1; None = all but alpha.
        max_pixels: greatest number of pixels of a block.

    Returns:
        The member, and where it holds data: by no-data value, alpha or internal mask.

    Raises:
        ValueError: a damaged TIFF, inks, bands that it does not have, or of a kind that no network takes.
    """
    from mkd.geo.band_choice import DTYPES, choose_bands
    from mkd.geo.grid import Window
    from mkd.geo.raster import DamagedRaster

    try:
        with open_tiff(data, max_pixels) as reader:
            info = reader.info
            choice = choose_bands(name, info, bands, "--bands")
            whole = Window(0, 0, info.height, info.width)
            pixels, valid = choice.pixels(reader, whole), choice.valid(reader, whole)
    except DamagedRaster as error:
        raise ValueError(f"{name} cannot be decoded ({error})") from None
    count, dtype = choice.kind
    plain = dtype == "uint8" and count <= 3 and choice.table is None and bands is None
    if plain and not choice.masks and valid.all():
        return None
    if dtype == "uint8" and count in (1, 2) and bands is None:  # grey, as Pillow's is
        pixels, count = pixels[..., [0, 0, 0]], 3
    if dtype not in DTYPES or count < 3:
        raise ValueError(
            f"{name} has {pluralize(count, 'band')} of {dtype}: images need 3 or more bands of "
            f"{', '.join(DTYPES[:-1])} or {DTYPES[-1]}; convert it, such as with gdal_translate"
        )
    return pixel_member(pixels, valid, bool(choice.masks))
