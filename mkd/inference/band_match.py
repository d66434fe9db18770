"""Which bands of a raster a model is given."""

import logging
from collections.abc import Sequence

from mkd.geo.band_choice import BandChoice, choose_bands
from mkd.geo.raster import RasterReader
from mkd.geo.raster_info import RasterInfo
from mkd.pixel_scale import PixelScale

_log = logging.getLogger(__name__)


def bands_for(reader: RasterReader, asked: Sequence[int | str] | None, scale: PixelScale) -> BandChoice:
    """Choose the bands of a raster for a model; a band that is taken for alpha is logged.

    Args:
        reader: of the raster.
        asked: numbers from 1, or names that the raster has for its bands; None = all but alpha.
        scale: what the model takes.

    Raises:
        ValueError: other than the model's number of bands, or another type.
    """
    path, info = reader.path, reader.info
    numbers = None if asked is None else [_number(path, info, band) for band in asked]
    choice = choose_bands(path, info, numbers, "bands=")
    count, dtype = choice.kind
    if dtype != scale.dtype:
        raise ValueError(
            f"{path} holds {dtype} values, allowed is {scale.dtype}, which the model takes: give a raster with the "
            f"values that the training images have, {_conversion(scale.dtype)}"
        )
    if count != scale.bands and asked is not None:
        exactly = "three" if scale.bands == 3 else scale.bands
        raise ValueError(f"bands is {list(asked)}: name exactly {exactly}, as the model takes {scale}")
    if count != scale.bands:
        there = info.bands if choice.table is None else 3
        example = ",".join(str(band) for band in range(1, scale.bands + 1))
        advice = (
            f"name the {scale.bands} to use, for example bands=[{example}]"
            if there >= scale.bands
            else f"give a raster that has them, or a model of {count} bands"
        )
        colours = " (red, green, blue)" if scale.plain else ""
        alpha = f", {len(choice.masks)} of them alpha" if choice.masks else ""
        raise ValueError(
            f"{path} has {there} band(s){alpha}, the model takes {scale.bands}{colours}: {advice}"
        )
    if choice.masks:
        _log.warning(
            "note: band %s of %s is called alpha there and says where there is data; if it is data, name it in bands=",
            *(", ".join(map(str, choice.masks)), path),
        )
    return choice


def _number(path: str, info: RasterInfo, band: int | str) -> int:
    """Return the number of a band that is given by number or name."""
    text = str(band).strip()
    if text.lstrip("-").isdecimal():
        return int(text)
    found = [number for number, name in enumerate(info.names, 1) if name.casefold() == text.casefold()]
    if len(found) != 1:
        named = ", ".join(name for name in info.names if name) or "none"
        raise ValueError(
            f"bands: {path} has {'no band' if not found else 'several bands'} named {text!r} (it names {named}): give "
            f"numbers from 1 to {info.bands}, or one of these names"
        )
    return found[0]


def _conversion(dtype: str) -> str:
    gdal = {"uint8": "Byte", "uint16": "UInt16", "int16": "Int16", "float32": "Float32"}[dtype]
    scaling = " -scale 0 4095 0 255" if dtype == "uint8" else ""
    return f"converted as they were, for example gdal_translate -ot {gdal}{scaling} IN.tif OUT.tif"
